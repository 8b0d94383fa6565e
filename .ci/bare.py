"""Buy with a package that has no extras, from a gateway of this environment; its interpreter is the argument."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import dreamo_batch

_SCRIPT = """
import sys
import dreamo_batch as dreamo

reference, run_dir, base_url, api_key = sys.argv[1:]
jobs = dreamo.sweep(image=reference, prompt="a fox", seed=range(1, 3), use_rephraser=False)
done = dreamo.run(jobs, run_dir, base_url=base_url, api_key=api_key, progress=False)
assert done["status"].eq("completed").all(), done
assert len(dreamo.load(run_dir)) == 2 and dreamo.verify(run_dir) == []
assert len(dreamo.costs(done)) and len(dreamo.plan(jobs, run_dir)) == 2
dreamo.export(run_dir, run_dir + "-export")
dreamo.contact_sheet(run_dir, run_dir + ".png")
dreamo.gallery(run_dir).to_html(run_dir + ".html")
for extra, use in {
    "local": lambda: dreamo.run(jobs, run_dir + "-local", gateway="local", progress=False),
    "excel": lambda: dreamo.write_table(done, run_dir + ".xlsx"),
    "plots": lambda: dreamo.plot_costs(dreamo.costs(done)),
    "report": lambda: dreamo.report(run_dir),
}.items():
    try:
        use()
    except dreamo.DreamoError as error:
        assert f"pip install 'dreamo-batch[{extra}]'" in str(error), error
    else:
        raise AssertionError(f"{extra} is there")
"""

folder = Path(__file__).parent.parent
with tempfile.TemporaryDirectory() as work, dreamo_batch.LocalGateway(engine="flat") as gateway:
    service = [gateway.base_url, gateway.api_key]
    command = [sys.argv[1], "-c", _SCRIPT, str(folder / "data" / "mascot.png"), f"{work}/run", *service]
    subprocess.run(command, cwd=work, check=True)
    shell = [sys.argv[1], "-m", "dreamo_batch", "status", f"{work}/run", "--format", "json"]
    told = json.loads(subprocess.run(shell, cwd=work, check=True, capture_output=True).stdout)
    assert told["by_status"] == {"completed": 2}, told
print("a bare install buys, reads, exports and shows; each extra is named")
