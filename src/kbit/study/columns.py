"""The columns of a study: one list, from which the store makes its tables and exports take their order."""

__all__ = ["COMMON", "QUALITY", "SPEED", "SQL_TYPES"]

SQL_TYPES = {str: "TEXT", int: "INTEGER", float: "REAL"}

#: of every row
COMMON: dict[str, type] = {
    "key": str,  # digest of all that the row depends on
    "status": str,  # ok, or failed
    "reason": str,  # of a failure
    "family": str,
    "model": str,
    "params": int,
    "scheme": str,
    "embedding": str,
    "head": str,
    "model_sha256": str,
    "seconds": float,  # of the whole cell
    "peak_rss_bytes": int,
    "machine": str,
    "versions": str,  # JSON: package → version
}
#: what a quality cell adds
QUALITY: dict[str, type] = {
    "method": str,  # nearest, mse, or a scheme's methods and parts such as imp+gptq+outlier1; none for the original
    "bits": int,
    "group_size": int,
    "grid": str,
    "speed_scheme": str,  # what a speed cell of the same bytes is called
    "hidden_size": int,
    "layers": int,
    "quantized_weights": int,
    "bpw": float,
    "bpw_file": float,
    "file_bytes": int,
    "codes_bytes": float,
    "scales_bytes": float,
    "zero_points_bytes": float,
    "codebooks_bytes": float,
    "padding_bytes": float,
    "mask_bytes": float,
    "outliers_bytes": float,
    "low_rank_bytes": float,
    "rest_bytes": float,
    "header_bytes": float,
    "dataset": str,
    "context": int,
    "windows": int,
    "tokens": int,
    "seed": int,  # of the calibration text
    "perplexity": float,
    "loss_nats": float,
    "reference_loss_nats": float,
    "bits_per_byte": float,
    "kl_mean": float,
    "kl_mean_low": float,
    "kl_mean_high": float,
    "kl_p99": float,
    "kl_max": float,
    "top1_agreement": float,
    "weight_error": float,  # Σ (ŵ − w)² / Σ w² over the encoded weights
    "accuracy": float,  # mean over the tasks
    "tasks": str,  # JSON: task → accuracy and its standard error
    "text_sha256": str,
    "calibration_sha256": str,
    "root": str,  # hash that names the encoded model
    "quantize_seconds": float,
    "evaluate_seconds": float,
}
#: what a speed cell adds
SPEED: dict[str, type] = {
    "threads": int,
    "isa": str,
    "prompt_tokens": int,
    "decode_tokens": int,
    "prefill_tokens_per_s": float,
    "decode_tokens_per_s": float,
    "decode_gb_per_s": float,
    "weight_bytes_per_token": int,
    "memory_roof_gb_per_s": float,
    "int8_roof_gmac_per_s": float,
    "load_seconds": float,
}
