#!/usr/bin/env python3
"""One run of llama.cpp on token ids: prefill, greedy decode, memory; one JSON line with memwall's names.

Through the C interface, so Python's share is microseconds a token; timed after an unmeasured prefill, so that
pages are mapped and threads started (--cold: without). What Python itself holds before the
model is loaded is given apart (`host_bytes`), so that it can be taken off llama.cpp's peak.
"""
import argparse
import ctypes
import json
import time


def memory(field):
    """A line of this process's status, in bytes."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {field}")


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("model")
    a.add_argument("--token-ids", required=True, help="1,2,3")
    a.add_argument("-n", type=int, default=64, help="tokens to generate")
    a.add_argument("-t", "--threads", type=int, default=2)
    a.add_argument("--no-repack", action="store_true", help="keep the file's layout of weights")
    a.add_argument("--cold", action="store_true", help="no unmeasured prefill first: for the time to the first token")
    o = a.parse_args()
    prompt = [int(t) for t in o.token_ids.split(",")]

    import llama_cpp as l

    complaints = []

    @l.llama_log_callback
    def listen(level, text, _):
        if level >= 4:
            complaints.append(text.decode(errors="replace").strip())

    l.llama_log_set(listen, ctypes.c_void_p(0))
    l.llama_backend_init()
    host = memory("VmRSS")
    begin = time.perf_counter()
    model_parameters = l.llama_model_default_params()
    model_parameters.n_gpu_layers = 0
    model_parameters.load_mode = l.LLAMA_LOAD_MODE_MMAP
    model_parameters.use_extra_bufts = not o.no_repack
    model = l.llama_model_load_from_file(o.model.encode(), model_parameters)
    if not model:
        raise SystemExit(f"{o.model}: llama.cpp does not load it: {'; '.join(complaints)}")
    context_parameters = l.llama_context_default_params()
    context_parameters.n_ctx = len(prompt) + o.n
    context_parameters.n_batch = context_parameters.n_ubatch = 512
    context_parameters.n_threads = context_parameters.n_threads_batch = o.threads
    context_parameters.flash_attn_type = 1
    context_parameters.no_perf = True
    context = l.llama_init_from_model(model, context_parameters)
    if not context:
        raise SystemExit(f"{o.model}: llama.cpp makes no context: {'; '.join(complaints)}")
    vocabulary = l.llama_vocab_n_tokens(l.llama_model_get_vocab(model))

    def feed(tokens):
        """Seconds for these tokens as one batch."""
        array = (l.llama_token * len(tokens))(*tokens)
        start = time.perf_counter()
        if l.llama_decode(context, l.llama_batch_get_one(array, len(tokens))) != 0:
            raise SystemExit(f"{o.model}: llama_decode failed: {'; '.join(complaints)}")
        l.llama_synchronize(context)
        return time.perf_counter() - start

    def greedy():
        logits = l.llama_get_logits_ith(context, -1)
        row = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float * vocabulary)).contents
        import numpy as np

        return int(np.argmax(np.frombuffer(row, np.float32)))

    def read_prompt():
        return sum(feed(prompt[i:i + 512]) for i in range(0, len(prompt), 512))

    if not o.cold:
        read_prompt()
        l.llama_memory_clear(l.llama_get_memory(context), True)
    prefill = read_prompt()
    generated, decode = [], 0.0
    first = None
    for _ in range(o.n):
        generated.append(greedy())
        if first is None:
            first = time.perf_counter() - begin
        decode += feed(generated[-1:])
    print(json.dumps({
        "engine": f"llama-cpp-python {l.__version__}", "repack": not o.no_repack, "token_ids": generated,
        "prompt_tokens": len(prompt), "generated_tokens": o.n, "prefill_tps": len(prompt) / prefill,
        "decode_tps": o.n / decode if o.n else None, "first_token_s": first if o.cold else None,
        "rss_bytes": memory("VmHWM"), "host_bytes": host, "engine_bytes": memory("VmHWM") - host,
    }))


if __name__ == "__main__":
    main()
