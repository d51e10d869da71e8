"""A search on Ray in a process of its own, for tests that kill it: python ray_process.py OUT TRAINER OPTIONS-AS-JSON."""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def main() -> None:
    where = Path(__file__).with_name("fakes.py")
    spec = spec_from_file_location("igcsearch_test_fakes", where)
    fakes = module_from_spec(spec)
    sys.modules[spec.name] = fakes
    spec.loader.exec_module(fakes)
    from igcsearch.search import SearchConfig, run_search
    from igcsearch.search.engines.ray_engine import RayEngine
    from igcsearch.training import DataSpec, Recipe

    out, trainer, options = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    resume = options.pop("resume", False)
    options["recipe"] = Recipe(epochs=options.pop("epochs", 3))
    config = SearchConfig(space=fakes.SPACE, data=DataSpec("digits"), engine="ray", **options)
    engine = RayEngine(config, out, trainer=trainer)
    run_search(config, out, resume=resume, engine=engine, on_event=lambda e: print(type(e).__name__, flush=True))


if __name__ == "__main__":
    main()
