"""transformers on torch in bfloat16, on the checkpoint itself."""

import torch
import transformers
import worker
from transformers import AutoModelForCausalLM


def load(path: str, threads: int) -> tuple[worker.Generate, str]:
    """The model with its default attention and a dynamic cache."""
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)

    @torch.inference_mode()
    def generate(prompt: list[int], count: int, report: worker.Report) -> None:
        tokens, cache = torch.tensor([prompt]), None
        for _ in range(count + 1):
            result = model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
            tokens, cache = result.logits[:, -1:].argmax(-1), result.past_key_values
            report(int(tokens))

    return generate, f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.backends.cpu.get_cpu_capability()}"


if __name__ == "__main__":
    worker.serve(load)
