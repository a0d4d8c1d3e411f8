import subprocess
import sys

HEAVY = ("jax", "flax", "optax", "orbax", "grain", "matplotlib", "sklearn")

READ = """
import sys
import dnabert2_jax.config.corpus, dnabert2_jax.config.inference, dnabert2_jax.config.loading
print(sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[1:])))
"""


def test_reading_a_run_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", READ, *HEAVY], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
