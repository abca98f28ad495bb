"""ONNX Runtime GenAI, on a folder of its model builder."""

import json

import numpy as np
import onnxruntime_genai as genai
import worker


def load(path: str, threads: int) -> tuple[worker.Generate, str]:
    """The model with its threads set and its end token out of reach."""
    config = genai.Config(path)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = genai.Model(config)

    def generate(prompt: list[int], count: int, report: worker.Report) -> None:
        params = genai.GeneratorParams(model)
        length = len(prompt) + count + 1
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = genai.Generator(model, params)
        generator.append_tokens(np.asarray([prompt], np.int32))
        for _ in range(count + 1):
            generator.generate_next_token()
            report(generator.get_next_tokens()[0])

    return generate, f"onnxruntime-genai {genai.__version__}"


if __name__ == "__main__":
    worker.serve(load)
