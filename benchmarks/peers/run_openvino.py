"""OpenVINO GenAI's pipeline, on an exported folder; tokens come to its streamer."""

import numpy as np
import openvino
import openvino_genai as genai
import worker


class Streamer(genai.StreamerBase):
    """Reports each token as the pipeline writes it."""

    def __init__(self, report: worker.Report) -> None:
        super().__init__()
        self._report = report

    def write(self, token: int | list[int]) -> genai.StreamingStatus:
        """One token, or several."""
        for each in token if isinstance(token, list) else [token]:
            self._report(each)
        return genai.StreamingStatus.RUNNING

    def end(self) -> None:
        """Nothing is held back."""


def load(path: str, threads: int) -> tuple[worker.Generate, str]:
    """The pipeline at its defaults."""
    pipeline = genai.LLMPipeline(path, "CPU", INFERENCE_NUM_THREADS=threads)

    def generate(prompt: list[int], count: int, report: worker.Report) -> None:
        ids = openvino.Tensor(np.asarray([prompt], np.int64))
        mask = openvino.Tensor(np.ones((1, len(prompt)), np.int64))
        config = genai.GenerationConfig(max_new_tokens=count + 1, ignore_eos=True, do_sample=False)
        pipeline.generate(genai.TokenizedInputs(ids, mask), config, Streamer(report))

    return generate, f"openvino {openvino.__version__}"


if __name__ == "__main__":
    worker.serve(load)
