"""CTranslate2's generator, on a converted folder; the prompt goes through the decoder in one piece."""

import json
from pathlib import Path

import ctranslate2
import worker


def load(path: str, threads: int) -> tuple[worker.Generate, str]:
    """The generator in the type of the file."""
    generator = ctranslate2.Generator(path, device="cpu", inter_threads=1, intra_threads=threads)
    words = json.loads((Path(path) / "vocabulary.json").read_text())

    def generate(prompt: list[int], count: int, report: worker.Report) -> None:
        generator.generate_batch(
            [[words[token] for token in prompt]],
            beam_size=1,
            min_length=count + 1,
            max_length=count + 1,
            end_token=[],
            include_prompt_in_result=False,
            callback=lambda result: report(result.token_id),
        )

    kinds = ", ".join(sorted(ctranslate2.get_supported_compute_types("cpu")))
    return generate, f"ctranslate2 {ctranslate2.__version__}, {generator.compute_type} of {kinds}"


if __name__ == "__main__":
    worker.serve(load)
