"""Turn a GGUF file into a model folder: `python -m jobs.prepare_model source=X.gguf output=DIR`.

source=package:NAME takes the one GGUF file inside an installed package. dtype=bfloat16 by default.
"""

from corp_ray.cli import parse_values, run_job
from corp_ray.model_folder import prepare_model


def main() -> None:
    values = parse_values(__doc__ or "", ("source", "output"), ("dtype",))
    prepare_model(values["source"], values["output"], values.get("dtype", "bfloat16"))


if __name__ == "__main__":
    run_job(main)
