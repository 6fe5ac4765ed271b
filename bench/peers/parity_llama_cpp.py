#!/usr/bin/env python3
"""How far memwall's and llama.cpp's logits are from those of the weights that a GGUF file holds.

    parity_llama_cpp.py --memwall ../../target/release/memwall --folder /tmp/models MODEL.gguf ...

Reference: every tensor decoded to f32 by the gguf package and run by memwall in f32, keys and values in f32. Against
it stands the mean Kullback-Leibler divergence, over all positions of a prompt, of memwall on the file itself and of
llama.cpp on the same file, both with keys and values in f16. llama.cpp runs with and without its second copy of the
weights; memwall is held against the smaller divergence. The divergence is that of arithmetic alone: what quantization
itself costs is in the reference too. Prints a table; exit code 1 if a ratio is above --bar.
"""
import argparse
import ctypes
import os
import subprocess
import sys
import tempfile

import numpy as np

import against_llama_cpp


def decoded(source, target):
    """Writes the model at `source` with every tensor as f32 to `target`, if that is not there."""
    import gguf

    if os.path.exists(target):
        return target
    reader = gguf.GGUFReader(source)
    field = lambda name: reader.fields[name].contents()
    writer = gguf.GGUFWriter(target + ".part", field("general.architecture"), use_temp_file=True)
    skipped = {"general.architecture", "general.file_type", "general.quantization_version", "general.alignment"}
    for name, f in reader.fields.items():
        if name.startswith("GGUF.") or name in skipped:
            continue
        inner = f.types[-1] if f.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, f.contents(), f.types[0], sub_type=inner)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        # The reader gives the shape with the shortest stride first.
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values.reshape([int(n) for n in tensor.shape[::-1]]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(target + ".part", target)
    return target


def ours(memwall, model, tokens, threads, kv):
    """memwall's logits, [tokens, vocabulary]."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "logits")
        ids = ",".join(map(str, tokens))
        subprocess.run([memwall, "run", model, "--token-ids", ids, "-n", "0", "-t", str(threads), "--kv", kv,
                        "-c", str(len(tokens)), "--logits", path, "--json"], check=True, stdout=subprocess.DEVNULL)
        return np.fromfile(path, "<f4").reshape(len(tokens), -1)


def theirs(model, tokens, threads, repack):
    """llama.cpp's logits, [tokens, vocabulary], from one batch."""
    import llama_cpp as l

    parameters = l.llama_model_default_params()
    parameters.n_gpu_layers = 0
    parameters.use_extra_bufts = repack
    loaded = l.llama_model_load_from_file(model.encode(), parameters)
    if not loaded:
        sys.exit(f"{model}: llama.cpp does not load it")
    count = len(tokens)
    options = l.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = count
    options.n_threads = options.n_threads_batch = threads
    context = l.llama_init_from_model(loaded, options)
    if not context:
        sys.exit(f"{model}: llama.cpp makes no context")
    batch = l.llama_batch_init(count, 0, 1)
    batch.n_tokens = count
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, 1
    if l.llama_decode(context, batch) != 0:
        sys.exit(f"{model}: llama_decode failed")
    vocabulary = l.llama_vocab_n_tokens(l.llama_model_get_vocab(loaded))
    pointer = ctypes.cast(l.llama_get_logits(context), ctypes.POINTER(ctypes.c_float))
    logits = np.ctypeslib.as_array(pointer, (count, vocabulary)).copy()
    l.llama_batch_free(batch)
    l.llama_free(context)
    l.llama_model_free(loaded)
    return logits


def log_softmax(logits):
    """Logarithms of probabilities, in f64.

    >>> log_softmax(np.array([[0.0, 0.0]])).tolist() == [[-np.log(2), -np.log(2)]]
    True
    """
    x = logits.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def divergence(reference, logits):
    """KL(reference || logits) of every row.

    >>> divergence(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])).tolist()
    [0.0]
    """
    p, q = log_softmax(reference), log_softmax(logits)
    return (np.exp(p) * (p - q)).sum(-1)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("models", nargs="+", metavar="MODEL")
    a.add_argument("--memwall", default=os.path.join(against_llama_cpp.HERE, "../../target/release/memwall"))
    a.add_argument("--folder", required=True, help="where the models in f32 are made; each is removed after use")
    a.add_argument("--tokens", type=int, default=256)
    a.add_argument("--ids", help="a file with ids, separated by commas; otherwise random ones")
    a.add_argument("-t", "--threads", type=int, default=2)
    a.add_argument("--bar", type=float, default=1.1)
    o = a.parse_args()
    os.makedirs(o.folder, exist_ok=True)
    import llama_cpp

    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    above = False
    print("| file | memwall | llama.cpp, repack | no repack | ratio to the smaller | top token as the reference's, memwall / llama.cpp |")
    print("|---|---|---|---|---|---|")
    for model in o.models:
        name = os.path.basename(model).removesuffix(".gguf")
        wide = decoded(model, os.path.join(o.folder, f"{name}-decoded.gguf"))
        if o.ids:
            with open(o.ids) as f:
                tokens = [int(t) for t in f.read().split(",")][:o.tokens]
        else:
            tokens = against_llama_cpp.tokens(o.tokens, vocabulary(model))
        reference = ours(o.memwall, wide, tokens, o.threads, "f32")
        os.remove(wide)
        mine = ours(o.memwall, model, tokens, o.threads, "f16")
        peers = {repack: theirs(model, tokens, o.threads, repack) for repack in (True, False)}
        kl = {repack: divergence(reference, logits).mean() for repack, logits in peers.items()}
        best = min(kl, key=kl.get)
        own = divergence(reference, mine).mean()
        same = lambda logits: (logits.argmax(-1) == reference.argmax(-1)).mean()
        ratio = own / kl[best]
        above |= not ratio <= o.bar
        print(f"| {name} | {own:.3e} | {kl[True]:.3e} | {kl[False]:.3e} | {ratio:.3f} "
              f"| {same(mine):.3f} / {same(peers[best]):.3f} |", flush=True)
    sys.exit(above)


def vocabulary(model):
    """Tokens of the model's vocabulary: rows of its embedding."""
    import gguf

    return next(int(t.shape[1]) for t in gguf.GGUFReader(model).tensors if t.name == "token_embd.weight")


if __name__ == "__main__":
    main()
