"""llama.cpp through its C interface, on a GGUF file; logits are read without a copy."""

import ctypes

import llama_cpp
import numpy as np
import worker

CONTEXT = 1024
BATCH = 512


def load(path: str, threads: int) -> tuple[worker.Generate, str]:
    """Model and context at the library's defaults, but for their size."""
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {path}")
    context = llama_cpp.llama_init_from_model(model, _context_params(threads))
    if not context:
        raise RuntimeError(f"llama.cpp cannot make a context for {path}")
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def step(tokens: list[int]) -> int:
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens))):
            raise RuntimeError(f"llama_decode failed on {len(tokens)} tokens")
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), shape=(vocabulary,))
        return int(logits.argmax())

    def generate(prompt: list[int], count: int, report: worker.Report) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        tokens = prompt
        for _ in range(count + 1):
            tokens = [step(tokens)]
            report(tokens[0])

    return generate, f"llama-cpp-python {llama_cpp.__version__}, {llama_cpp.llama_print_system_info().decode().strip()}"


def _context_params(threads: int) -> llama_cpp.llama_context_params:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = CONTEXT, BATCH, BATCH
    params.n_threads = params.n_threads_batch = threads
    return params


if __name__ == "__main__":
    worker.serve(load)
