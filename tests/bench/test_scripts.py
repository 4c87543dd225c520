"""Benchmarks run once in a while: at least what they import must exist."""

from tests.conftest import ROOT

NEEDS_TENSORRT = {"probe.py"}


def test_every_benchmark_finds_what_it_imports(run_python):
    scripts = [str(x) for x in sorted((ROOT / "bench").rglob("*.py")) if x.name not in NEEDS_TENSORRT]
    code = f"import runpy\nfor path in {scripts!r}:\n    runpy.run_path(path, run_name='imported')"
    where = f"{ROOT}:{ROOT / 'bench'}:{ROOT / 'bench' / 'gpu'}"
    done = run_python("-c", f"import sys; sys.path[:0] = {where.split(':')!r}\n{code}")
    assert done.returncode == 0, done.stderr
