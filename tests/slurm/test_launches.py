"""The table of launches: every way to start a run on a real SLURM, and every way to disturb it."""

import os
import re
import signal
import sys
import time

import pytest
from slurm_cluster import BIN, ROOT, command

TORCHRUN = ("python", "-m", "torch.distributed.run")
MODULE = ("-m", "sr_train", "train")
FILES = ROOT / "scripts" / "slurm"
ON_CPU = ("--gpus-per-node=0", "--cpus-per-task=1", "--time=10")  # what the cluster of the tests has


def module(name, *more):
    return [*MODULE, *command(name, *more)[1:]]


# -- undisturbed -------------------------------------------------------------------------------------------------------

STARTS = {  # launch -> start of the command line; the reference that it equals bit for bit
    "srun --ntasks=1": "one",
    "srun --ntasks-per-node=2": "two",
    "srun --nodes=2 --ntasks-per-node=1": "two",
}


@pytest.mark.parametrize(("start", "reference"), STARTS.items())
def test_srun_trains_the_same_network_on_any_shape(slurm, request, start, reference):
    request.getfixturevalue(reference)
    row, name = slurm.row(f"{start} sr-train"), re.sub(r"\W+", "_", start)
    done = slurm.run(*start.split(), *command(name), row=row)
    assert done.code == 0, done.text
    row.outcome = "trains"
    slurm.trained(row, name, reference)


def test_two_nodes_of_two_tasks(slurm, one):
    row = slurm.row("srun --nodes=2 --ntasks-per-node=2 sr-train")
    done = slurm.run("srun", "--nodes=2", "--ntasks-per-node=2", *command("four"), row=row)
    assert done.code == 0, done.text
    row.outcome = "trains"
    slurm.trained(row, "four", one, bits=False)


def test_torchrun(slurm, two):
    row = slurm.row("torchrun --nproc-per-node=2 -m sr_train train")
    done = slurm.run(*TORCHRUN, "--standalone", "--nproc-per-node=2", *module("torchrun"), row=row)
    assert done.code == 0, done.text
    row.outcome = "trains"
    slurm.trained(row, "torchrun", two)


def test_torchrun_with_two_agents(slurm, two):
    row = slurm.row("srun --nodes=2 torchrun --nnodes=2 --nproc-per-node=1")
    rendezvous = ("--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:29511", "--rdzv-id=1")
    agents = ("srun", "--nodes=2", "--ntasks-per-node=1", *TORCHRUN, "--nnodes=2", "--nproc-per-node=1", *rendezvous)
    done = slurm.run(*agents, *module("agents"), row=row)
    assert done.code == 0, done.text
    row.outcome = "trains"
    slurm.trained(row, "agents", two)


def test_processes_that_sr_train_starts(slurm, two):
    row = slurm.row("sr-train trainer.devices=2")
    done = slurm.run(*command("own", "trainer.devices=2", "trainer.strategy=ddp"), row=row)
    assert done.code == 0, done.text
    row.outcome = "trains"
    slurm.trained(row, "own", two)


def test_one_task_with_two_devices(slurm, two):
    row = slurm.row("srun --ntasks=1 sr-train trainer.devices=2")
    done = slurm.run("srun", "--ntasks=1", *command("one_task", "trainer.devices=2"), row=row)
    assert done.code == 0, done.text
    row.outcome = "starts the second process itself"
    slurm.trained(row, "one_task", two)


def test_from_one_process_to_two_and_back(slurm, one):
    row = slurm.row("sr-train to step 5; srun --ntasks=2 to step 15; sr-train to step 20")
    for start, steps in (((), 5), (("srun", "--ntasks=2"), 15), ((), 20)):
        done = slurm.run(*start, *command("mixed", f"trainer.max_steps={steps}"), row=row)
        assert done.code == 0, done.text
    row.outcome = "continues each time"
    slurm.trained(row, "mixed", one, bits=False)


def test_a_sweep_of_runs_on_two_processes(slurm, two):
    row = slurm.row("sr-train -m seed=0,1 trainer.devices=2")
    done = slurm.run("sr-train", "-m", *command("sweep", "seed=0,1", "trainer.devices=2")[1:], row=row)
    assert done.code == 0, done.text
    row.outcome = "two runs"
    slurm.trained(row, "sweep/seed-0", two)
    assert (slurm.folder / "runs/sweep/seed-1/x2/weights.safetensors").exists()


# -- job files and launcher=slurm --------------------------------------------------------------------------------------


def test_the_job_file_for_one_node(slurm, two):
    row = slurm.row("sbatch one_node.sbatch KEY=VALUE ...")
    job = slurm.submit_file(FILES / "one_node.sbatch", *ON_CPU, "--ntasks-per-node=2", arguments=command("node")[1:])
    done = slurm.ended(job, row)
    assert done.code == 0, done.text
    row.outcome = "trains"
    slurm.trained(row, "node", two)


def test_the_job_file_for_several_nodes(slurm, two):
    row = slurm.row("sbatch many_nodes.sbatch KEY=VALUE ...")
    job = slurm.submit_file(FILES / "many_nodes.sbatch", *ON_CPU, "--ntasks-per-node=1", arguments=command("nodes")[1:])
    done = slurm.ended(job, row)
    assert done.code == 0, done.text
    row.outcome = "trains on 2 nodes"
    slurm.trained(row, "nodes", two)


def test_the_job_file_for_an_array(slurm, one):
    row = slurm.row("sbatch --array=0-1 array.sbatch KEY=VALUE ...")
    arguments = [a for a in command("array")[1:] if not a.startswith("name=")]
    job = slurm.submit_file(FILES / "array.sbatch", *ON_CPU, "--array=0-1", arguments=arguments)
    for task in ("0", "1"):
        done = slurm.ended(f"{job}_{task}", row if task == "0" else None)
        assert done.code == 0, done.text
    row.outcome = "two runs, named by seed"
    slurm.trained(row, "array/seed-0", one)
    assert (slurm.folder / "runs/array/seed-1/x2/weights.safetensors").exists()


LAUNCHER = ("launcher=slurm", "launcher.gpus_per_node=0", "launcher.hours=0.2", "launcher.wait=true")


def test_launcher_slurm(slurm, two):
    row = slurm.row("sr-train launcher=slurm launcher.nodes=2")
    done = slurm.run(*command("launched", *LAUNCHER, "launcher.nodes=2"), row=row)
    assert done.code == 0, done.text
    row.outcome = "submits a job, which trains on 2 nodes"
    slurm.trained(row, "launched", two)


def test_launcher_slurm_with_a_sweep(slurm, one):
    row = slurm.row("sr-train -m seed=0,1 launcher=slurm")
    done = slurm.run("sr-train", "-m", *command("jobs", "seed=0,1", *LAUNCHER)[1:], row=row)
    assert done.code == 0, done.text
    row.outcome = "submits two jobs"
    slurm.trained(row, "jobs/seed-0", one)
    assert (slurm.folder / "runs/jobs/seed-1/x2/weights.safetensors").exists()


def test_an_error_of_a_job_is_one_line_with_the_log(slurm):
    row = slurm.row("sr-train launcher=slurm launcher.tasks_per_node=2 data.batch=7")
    done = slurm.run(*command("odd", "data.batch=7", *LAUNCHER, "launcher.tasks_per_node=2"), row=row)
    assert done.code == 2
    assert re.search(r"^job \d+ \(run odd\): data.batch=7 cannot be .*; log: runs/slurm/odd/\d+.log$", done.error)
    row.outcome = "refused: " + done.error.split("; log:")[0].partition("): ")[2]


# -- what contradicts itself -------------------------------------------------------------------------------------------


def refused(slurm, row, done, name, pattern):
    assert done.code == 2, done.text
    assert re.search(pattern, done.error), done.text
    assert done.text.count("sr-train: error:") == 1
    assert "Traceback" not in done.text
    assert not (slurm.folder / "runs" / name).exists(), "something was written"
    row.outcome = f"refused: {done.error.splitlines()[0][:100]} ..."


def test_two_tasks_without_srun(slurm):
    row = slurm.row("sbatch --ntasks=2, sr-train without srun")
    job = slurm.submit("--ntasks=2", "--job-name=bare", lines=slurm.line(*command("bare")))
    refused(slurm, row, slurm.ended(job, row), "bare", r"srun sr-train")


def test_devices_that_contradict_srun(slurm):
    row = slurm.row("srun --ntasks=2 sr-train trainer.devices=3")
    done = slurm.run("srun", "--ntasks=2", *command("three", "trainer.devices=3"), row=row)
    refused(slurm, row, done, "three", r"--ntasks-per-node=3")


def test_nodes_with_different_numbers_of_tasks(slurm):
    row = slurm.row("srun --nodes=2 --ntasks=3 sr-train")
    done = slurm.run("srun", "--nodes=2", "--ntasks=3", *command("uneven"), row=row)
    refused(slurm, row, done, "uneven", r"each node needs the same number")


@pytest.mark.parametrize("rank", ["1", "abc"])
def test_a_rank_that_another_program_left_in_the_environment(slurm, rank):
    row = slurm.row(f"RANK={rank} sr-train")
    refused(slurm, row, slurm.run(*command("left"), row=row, RANK=rank), "left", rf"RANK={rank}.*env -u RANK")


def test_a_second_command_on_a_run_that_trains(slurm, two):
    row = slurm.row("the same command, while the run trains")
    slurm.brake()
    first = slurm.start("srun", "--ntasks=2", *command("busy", "callbacks.brake.seconds=3"))
    slurm.until_step("busy")
    second = slurm.run("srun", "--ntasks=2", *command("busy"), row=row)
    slurm.brake(False)
    done = slurm.finish(first)
    assert (done.code, second.code) == (0, 1), second.text
    row.outcome = f"refused: {second.error.splitlines()[0][:80]} ..."
    slurm.trained(row, "busy", two)


# -- disturbed ---------------------------------------------------------------------------------------------------------


def job(slurm, name, *options, more=(), wait=True):
    """Submit a job of two ranks with a brake, and wait for step 5."""
    slurm.brake()
    line = slurm.line("srun", "--kill-on-bad-exit=1", *command(name, *more))
    number = slurm.submit("--ntasks=2", "--requeue", f"--job-name={name}", *options, lines=line)
    if wait:
        slurm.until_step(name)
    return number


def continued(slurm, row, name, two):
    """Run the same command again, and compare."""
    slurm.brake(False)
    done = slurm.run("srun", "--ntasks=2", *command(name), row=row)
    assert done.code == 0, done.text
    assert re.search(r"from step \d+", done.text)
    slurm.trained(row, name, two)


def came_back(slurm, row, number, name, two):
    """Let a requeued job run to its end, and compare."""
    slurm.brake(False)
    slurm.release(number)
    done = slurm.ended(number, row)
    assert done.code == 0, done.text
    assert slurm.field(number, "Restarts") == "1"
    assert re.search(r"from step \d+", done.text)
    slurm.trained(row, name, two)


def test_scancel_saves_and_does_not_come_back(slurm, two):
    row = slurm.row("scancel JOB; the same command again")
    number = job(slurm, "cancelled")
    slurm.shell("scancel", number)
    done = slurm.ended(number, row)
    assert "is not requeued: it was cancelled" in done.text
    time.sleep(3)
    assert slurm.field(number, "JobState") == "CANCELLED"
    row.outcome = "saves, is not requeued; continues"
    continued(slurm, row, "cancelled", two)


@pytest.mark.parametrize("more", [(), ("resume=never",)], ids=["auto", "never"])
def test_a_preempted_job_comes_back(slurm, two, more):
    name = "preempted" + "_never" * bool(more)
    row = slurm.row("an urgent job preempts the run" + ", which has resume=never" * bool(more))
    number = job(slurm, name, more=more)
    urgent = slurm.submit("--partition=urgent", "--nodes=2", "--exclusive", "--job-name=urgent", lines="sleep 1")
    slurm.until("the urgent job runs", lambda: slurm.field(urgent, "JobState") in ("RUNNING", "COMPLETED"))
    row.outcome = "saves, is requeued, continues by itself"
    came_back(slurm, row, number, name, two)


def test_a_signal_before_the_time_limit(slurm, two):
    row = slurm.row("--time=2 --signal=USR1@60")
    number = job(slurm, "limit", "--time=2", "--signal=USR1@60", more=("callbacks.brake.seconds=6",), wait=False)
    slurm.until("it is requeued", lambda: slurm.field(number, "Restarts") == "1", 150)
    row.outcome = "saves, is requeued, continues by itself"
    came_back(slurm, row, number, "limit", two)


@pytest.mark.parametrize("name", ["USR1", "USR2"])
def test_a_signal_to_all_ranks(slurm, two, name):
    row = slurm.row(f"scancel --signal={name} JOB")
    number = job(slurm, name)
    slurm.shell("scancel", f"--signal={name}", number)
    row.outcome = "saves, is requeued, continues by itself"
    came_back(slurm, row, number, name, two)


def test_sigterm_to_one_rank(slurm, two):
    row = slurm.row("kill -TERM of rank 1")
    number = job(slurm, "term")
    os.kill(slurm.processes("term")[1], signal.SIGTERM)
    row.outcome = "both save, requeued, continues by itself"
    came_back(slurm, row, number, "term", two)


@pytest.mark.parametrize("rank", [0, 1])
def test_kill_of_a_rank(slurm, two, rank):
    row, name = slurm.row(f"kill -9 of rank {rank}; the same command again"), f"killed_{rank}"
    number = job(slurm, name)
    os.kill(slurm.processes(name)[rank], signal.SIGKILL)
    begin = time.monotonic()
    done = slurm.ended(number, row)
    assert done.code != 0
    assert slurm.processes(name) == {}
    row.outcome = f"all ranks gone in {time.monotonic() - begin:.0f} s; continues"
    continued(slurm, row, name, two)


def test_a_time_limit_of_our_own(slurm, two):
    row = slurm.row("srun --ntasks=2 sr-train trainer.max_time=00:00:00:04; again without it")
    slurm.brake()
    done = slurm.run("srun", "--ntasks=2", *command("max_time", "trainer.max_time=00:00:00:04"), row=row)
    assert done.code == 75, done.text
    row.outcome = "saves; continues"
    continued(slurm, row, "max_time", two)


def test_resume_never_by_two_ranks(slurm, two):
    row = slurm.row("torchrun --nproc-per-node=2 ... resume=never, twice")
    for _ in range(2):
        done = slurm.run(*TORCHRUN, "--standalone", "--nproc-per-node=2", *module("never", "resume=never"), row=row)
        assert done.code == 0, done.text
    assert "renamed to" in done.text
    row.outcome = "the second renames the first"
    slurm.trained(row, "never", two)


def test_the_table_has_25_rows(slurm):
    if sum("test_" in a or "-k" in a for a in sys.argv) or not BIN:
        pytest.skip("a part of the tests was selected")
    assert len(slurm.rows) >= 25
