"""The recurrences of token mixers in PyTorch: token by token, and in chunks of composed operations.

Inputs are [B, H, T, K|V], gates and shares [B, H, T] where there is one a head. Chunked forms divide by the decay since
the chunk's start where there is one gate a channel: for moderate gates only, which those made here are.
"""
import torch
from torch.nn import functional as F


def keys_and_values(o, time, dtype):
    shape = lambda width: torch.randn(o.batch, o.heads, time, width, dtype=dtype)
    return shape(o.key) / o.key**0.5, shape(o.key), shape(o.value)


def log_gates(o, time, dtype, *width):
    # The gates of the published layer: a sigmoid's 16th root, so a state fades over tens of tokens.
    return F.logsigmoid(torch.randn(o.batch, o.heads, time, *width, dtype=dtype)) / 16


def leaves(*tensors):
    return [x.detach().requires_grad_() for x in tensors]


def in_chunks(chunk, *tensors):
    return (x.view(*x.shape[:2], x.shape[2] // chunk, chunk, *x.shape[3:]) for x in tensors)


# Exact attention: nothing is chunked by hand.

def attention_inputs(o, time, dtype):
    return leaves(*keys_and_values(o, time, dtype))


def attention(q, k, v, chunk=None):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)


# S_t = diag(exp g_t) S_(t-1) + k_t v_t^T, o_t = S_t^T q_t: g of every channel, of a head, or none.

def gla_inputs(o, time, dtype):
    return leaves(*keys_and_values(o, time, dtype), log_gates(o, time, dtype, o.key))


def gla_recurrence(q, k, v, g):
    state, outputs = torch.zeros(*k.shape[:2], k.shape[3], v.shape[3], dtype=q.dtype), []
    for t in range(q.shape[2]):
        state = g[:, :, t].exp().unsqueeze(-1) * state + k[:, :, t].unsqueeze(-1) * v[:, :, t].unsqueeze(-2)
        outputs.append((q[:, :, t].unsqueeze(-1) * state).sum(-2))
    return torch.stack(outputs, 2)


def states_before(written, whole):
    """What is held before each chunk: `written` [B, H, C, K, V] and the decay of a whole chunk, which broadcasts to a state."""
    state, before = torch.zeros_like(written[:, :, 0]), []
    for c in range(written.shape[2]):
        before.append(state)
        state = written[:, :, c] + (state if whole is None else whole[:, :, c] * state)
    return torch.stack(before, 2)


def gla_chunked(q, k, v, g, chunk):
    shape = v.shape
    q, k, v, g = in_chunks(chunk, q, k, v, g)
    decay = g.cumsum(3)
    whole = decay[:, :, :, -1]
    reading, writing = q * decay.exp(), k * (whole.unsqueeze(3) - decay).exp()
    inside = (reading @ (k * (-decay).exp()).transpose(3, 4)).tril() @ v
    before = states_before(writing.transpose(3, 4) @ v, whole.exp().unsqueeze(-1))
    return (inside + reading @ before).reshape(shape)


def retention_inputs(o, time, dtype):
    return leaves(*keys_and_values(o, time, dtype), log_gates(o, time, dtype))


def retention_recurrence(q, k, v, g):
    return gla_recurrence(q, k, v, g.unsqueeze(-1))


def between_tokens(g):
    """The decay from token j to token i of a chunk, [.., i, j], 0 for later ones; and the decay since its start, [.., 1]."""
    decay = g.cumsum(-1).unsqueeze(-1)
    future = torch.ones(g.shape[-1], g.shape[-1], dtype=torch.bool).triu(1)
    return (decay - decay.transpose(-1, -2)).masked_fill(future, -torch.inf).exp(), decay


def retention_chunked(q, k, v, g, chunk):
    shape = v.shape
    q, k, v, g = in_chunks(chunk, q, k, v, g)
    between, decay = between_tokens(g)
    whole = decay[:, :, :, -1:]
    inside = ((q @ k.transpose(3, 4)) * between) @ v
    before = states_before((k * (whole - decay).exp()).transpose(3, 4) @ v, whole.exp())
    return (inside + (q * decay.exp()) @ before).reshape(shape)


def linear_attention_recurrence(q, k, v):
    return gla_recurrence(q, k, v, torch.zeros_like(k))


def linear_attention_chunked(q, k, v, chunk):
    shape = v.shape
    q, k, v = in_chunks(chunk, q, k, v)
    before = states_before(k.transpose(3, 4) @ v, None)
    return ((q @ k.transpose(3, 4)).tril() @ v + q @ before).reshape(shape)


# mLSTM: retention of keys times stabilized input gates, divided by the sum of what was read.

def mlstm_inputs(o, time, dtype):
    i = torch.randn(o.batch, o.heads, time, dtype=dtype)
    return leaves(*keys_and_values(o, time, dtype), i, log_gates(o, time, dtype))


def mlstm_scales(i, f):
    """m_t = max(f_t + m_(t-1), i_t, 0) without a loop; the gates and factors of a state that is divided by exp(m_t)."""
    summed = f.cumsum(-1)
    m = summed + torch.maximum((i - summed).cummax(-1).values, (-summed).cummax(-1).values).clamp_min(0)
    g = f + F.pad(m, (1, 0))[..., :-1] - m
    return g, (i - m).exp(), (-m).exp()


def mlstm(inner, q, k, v, i, f, *chunk):
    g, factor, bound = mlstm_scales(i, f)
    v = F.pad(v, (0, 1), value=1.0)
    o = inner(q, k * factor.unsqueeze(-1), v, g, *chunk)
    return o[..., :-1] / torch.maximum(o[..., -1].abs(), bound).unsqueeze(-1)


def mlstm_recurrence(q, k, v, i, f):
    return mlstm(retention_recurrence, q, k, v, i, f)


def mlstm_chunked(q, k, v, i, f, chunk):
    return mlstm(retention_chunked, q, k, v, i, f, chunk)


# The delta rule: S_t = (I - b_t k_t k_t^T) diag(exp g_t) S_(t-1) + b_t k_t v_t^T.

def delta_inputs(o, time, dtype, *gates):
    q, k, v = keys_and_values(o, time, dtype)
    beta = torch.rand(o.batch, o.heads, time, dtype=dtype)
    return leaves(q, F.normalize(k, dim=-1), v, beta, *gates)


def gated_delta_inputs(o, time, dtype):
    return delta_inputs(o, time, dtype, log_gates(o, time, dtype))


def kda_inputs(o, time, dtype):
    return delta_inputs(o, time, dtype, log_gates(o, time, dtype, o.key))


def kda_recurrence(q, k, v, beta, g):
    state, outputs = torch.zeros(*k.shape[:2], k.shape[3], v.shape[3], dtype=q.dtype), []
    for t in range(q.shape[2]):
        state = g[:, :, t].exp().unsqueeze(-1) * state
        held = (k[:, :, t].unsqueeze(-1) * state).sum(-2)
        written = beta[:, :, t].unsqueeze(-1) * (v[:, :, t] - held)
        state = state + k[:, :, t].unsqueeze(-1) * written.unsqueeze(-2)
        outputs.append((q[:, :, t].unsqueeze(-1) * state).sum(-2))
    return torch.stack(outputs, 2)


def gated_delta_recurrence(q, k, v, beta, g):
    return kda_recurrence(q, k, v, beta, g.unsqueeze(-1))


def delta_recurrence(q, k, v, beta):
    return kda_recurrence(q, k, v, beta, torch.zeros_like(k))


def delta_by_chunks(shape, similar, scores, right, reading, writing, whole):
    """Everything that needs no state is given for all chunks at once; then chunk by chunk."""
    chunk = similar.shape[-1]
    system = torch.eye(chunk, dtype=similar.dtype) + similar.tril(-1)
    w, u = torch.linalg.solve_triangular(system, right, upper=False).split([right.shape[-1] - shape[-1], shape[-1]], -1)
    state, outputs = torch.zeros_like(writing[:, :, 0] @ u[:, :, 0]), []
    for c in range(similar.shape[2]):
        written = u[:, :, c] - w[:, :, c] @ state
        outputs.append(reading[:, :, c] @ state + scores[:, :, c] @ written)
        kept = state if whole is None else whole[:, :, c] * state
        state = kept + writing[:, :, c] @ written
    return torch.stack(outputs, 2).reshape(shape)


def gated_delta_chunked(q, k, v, beta, g, chunk):
    shape = v.shape
    q, k, v, beta, g = in_chunks(chunk, q, k, v, beta.unsqueeze(-1), g)
    between, decay = between_tokens(g)
    whole = decay[:, :, :, -1:]
    right = torch.cat([beta * decay.exp() * k, beta * v], -1)
    similar, scores = beta * (k @ k.transpose(3, 4)) * between, (q @ k.transpose(3, 4)) * between
    writing = (k * (whole - decay).exp()).transpose(3, 4)
    return delta_by_chunks(shape, similar, scores, right, q * decay.exp(), writing, whole.exp())


def delta_chunked(q, k, v, beta, chunk):
    shape = v.shape
    q, k, v, beta = in_chunks(chunk, q, k, v, beta.unsqueeze(-1))
    right = torch.cat([beta * k, beta * v], -1)
    similar, scores = beta * (k @ k.transpose(3, 4)), (q @ k.transpose(3, 4)).tril()
    return delta_by_chunks(shape, similar, scores, right, q, k.transpose(3, 4), None)


def kda_chunked(q, k, v, beta, g, chunk):
    shape = v.shape
    q, k, v, beta, g = in_chunks(chunk, q, k, v, beta.unsqueeze(-1), g)
    decay = g.cumsum(3)
    whole = decay[:, :, :, -1:]
    reading, faded, grown = q * decay.exp(), k * decay.exp(), (k * (-decay).exp()).transpose(3, 4)
    right = torch.cat([beta * faded, beta * v], -1)
    writing = (k * (whole - decay).exp()).transpose(3, 4)
    similar, scores = beta * (faded @ grown), (reading @ grown).tril()
    return delta_by_chunks(shape, similar, scores, right, reading, writing, whole.transpose(3, 4).exp())


# RWKV-6: what is read is the state before the token, and the token itself times a bonus.

def wkv6_inputs(o, time, dtype):
    r, k, v = keys_and_values(o, time, dtype)
    return leaves(r, k, v, log_gates(o, time, dtype, o.key), torch.randn(o.heads, o.key, dtype=dtype))


def wkv6_now(r, k, v, bonus):
    return (r * bonus.unsqueeze(1) * k).sum(-1, keepdim=True) * v


def wkv6_recurrence(r, k, v, g, bonus):
    state, outputs = torch.zeros(*k.shape[:2], k.shape[3], v.shape[3], dtype=r.dtype), []
    for t in range(r.shape[2]):
        outputs.append((r[:, :, t].unsqueeze(-1) * state).sum(-2))
        state = g[:, :, t].exp().unsqueeze(-1) * state + k[:, :, t].unsqueeze(-1) * v[:, :, t].unsqueeze(-2)
    return torch.stack(outputs, 2) + wkv6_now(r, k, v, bonus)


def wkv6_chunked(r, k, v, g, bonus, chunk):
    shape, now = v.shape, wkv6_now(r, k, v, bonus)
    r, k, v, g = in_chunks(chunk, r, k, v, g)
    decay = g.cumsum(3)
    whole = decay[:, :, :, -1]
    reading, writing = r * (decay - g).exp(), k * (whole.unsqueeze(3) - decay).exp()
    inside = (reading @ (k * (-decay).exp()).transpose(3, 4)).tril(-1) @ v
    before = states_before(writing.transpose(3, 4) @ v, whole.exp().unsqueeze(-1))
    return (inside + reading @ before).reshape(shape) + now


# name: how inputs are made, token by token, in chunks.
MIXERS = {
    "attention": (attention_inputs, attention, attention),
    "linear_attention": (attention_inputs, linear_attention_recurrence, linear_attention_chunked),
    "retention": (retention_inputs, retention_recurrence, retention_chunked),
    "gla": (gla_inputs, gla_recurrence, gla_chunked),
    "mlstm": (mlstm_inputs, mlstm_recurrence, mlstm_chunked),
    "delta": (delta_inputs, delta_recurrence, delta_chunked),
    "gated_delta": (gated_delta_inputs, gated_delta_recurrence, gated_delta_chunked),
    "kda": (kda_inputs, kda_recurrence, kda_chunked),
    "wkv6": (wkv6_inputs, wkv6_recurrence, wkv6_chunked),
}
