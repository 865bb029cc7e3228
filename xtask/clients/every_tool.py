"""Each tool once or more, in the states that shape its result: the Python SDK holds every result against the tool's
output schema.
"""

import os

from pyro_client import Mismatch, equal, main, over_stdio


async def one_shot(session):
    environments = (await session.done("vm_list_environments"))["environments"]
    equal("an environment is installed", any(one["installed"] for one in environments), True)
    killed = await session.done("vm_run", command="kill -9 $$", mem_mib=256)
    equal("exit code of who was killed", killed["exit_code"], 137)
    made = await session.done("vm_create", mem_mib=256)
    vm = {"vm_id": made["vm_id"]}
    equal("state", (await session.done("vm_status", **vm))["state"], "created")
    equal("network", (await session.done("vm_network_info", **vm))["network_enabled"], False)
    equal("state", (await session.done("vm_start", **vm))["state"], "started")
    equal("output", (await session.done("vm_exec", command="echo 1", **vm))["stdout"], "1\n")
    networked = {"vm_id": (await session.done("vm_create", mem_mib=256, network=True))["vm_id"]}
    equal("network", (await session.done("vm_network_info", **networked))["network_enabled"], True)
    equal("state", (await session.done("vm_stop", **networked))["state"], "stopped")
    equal("reaped", (await session.done("vm_reap_expired"))["count"], 1)
    other = (await session.done("vm_create", mem_mib=256))["vm_id"]
    equal("deleted", (await session.done("vm_delete", vm_id=other))["deleted"], True)
    equal("blame", (await session.refusal("vm_status", vm_id=other))["blame"], "caller")


async def files(session, at, directory):
    done = session.done
    await done("workspace_file_write", path="a/long.txt", text="é" * 1000 + "\n", **at)
    part = await done("workspace_file_read", path="a/long.txt", max_bytes=100, **at)
    equal("part", (part["truncated"], part["next_offset"]), (True, 100))
    whole = await done("workspace_file_read", path="a/long.txt", **at)
    equal("whole", (whole["content"], whole["truncated"]), ("é" * 1000 + "\n", False))
    await done("workspace_file_move", path="a/long.txt", new_path="b.txt", **at)
    patch = "--- a/note.txt\n+++ b/note.txt\n@@ -1 +1 @@\n-begin\n+end\n"
    equal("patch", (await done("workspace_patch_apply", patch=patch, **at))["changed"], True)
    equal("blame", (await session.refusal("workspace_patch_apply", patch=patch, **at))["blame"], "caller")
    diff = await done("workspace_diff", max_output_bytes=20, **at)
    equal("diff goes on", (diff["changed"], diff["next_offset"] > 0), (True, True))
    equal("diff", (await done("workspace_diff", **at))["changed"], True)
    listed = await done("workspace_file_list", recursive=True, limit=1, **at)
    equal("listing goes on", (len(listed["entries"]), listed["next_offset"]), (1, 1))
    await done("workspace_file_list", recursive=True, **at)
    await done("workspace_file_remove", path="b.txt", **at)
    (directory / "more").mkdir()
    (directory / "more/one").write_text("1\n")
    await done("workspace_sync_push", source_path=str(directory / "more"), dest="more", **at)
    await done("workspace_sync_pull", path="more", output_path=str(directory / "more"), **at)
    await done("workspace_export", path="more", output_path=str(directory / "exported"), **at)


async def commands(session, at):
    done = session.done
    killed = await done("workspace_exec", command="kill -9 $$", **at)
    equal("exit code of who was killed", killed["exit_code"], 137)
    late = await done("workspace_exec", command="sleep 600", timeout_seconds=1, **at)
    equal("exit code of who was late", late["exit_code"], 124)
    long = await done("workspace_exec", command="seq 1000", max_output_bytes=100, **at)
    equal("cut", long["stdout_truncated"], True)
    detached = await done("workspace_exec", command="sleep 600", detach=True, **at)
    sequence = detached["sequence"]
    waited = await done("workspace_exec_wait", sequence=sequence, timeout_seconds=1, **at)
    equal("still runs", (waited["wait_timed_out"], waited["state"]), (True, "running"))
    await done("workspace_logs", sequence=sequence, **at)
    await done("workspace_exec_kill", sequence=sequence, signal_name="KILL", **at)
    waited = await done("workspace_exec_wait", sequence=sequence, **at)
    equal("still runs", waited["wait_timed_out"], False)
    paged = await done("workspace_logs", sequence=long["sequence"], max_output_bytes=100, **at)
    equal("logs go on", paged["entries"][0]["next_offset"], 100)
    equal("entries", len((await done("workspace_logs", **at))["entries"]), 4)
    secret = await done("workspace_exec", command="echo $TOKEN", secret_env={"token": "TOKEN"}, **at)
    equal("a secret is not told", secret["stdout"].strip() == "not-for-logs", False)


async def shells(session, at):
    done = session.done
    shell = {"shell_id": (await done("shell_open", cols=80, rows=24, **at))["shell_id"], **at}
    equal("shells", (await done("shell_list", **at))["count"], 1)
    await done("shell_write", input="echo $((6*7)); exec sleep 600", **shell)
    await done("shell_read", wait_for_text="42", wait_seconds=60, **shell)
    await done("shell_resize", cols=100, rows=30, **shell)
    await done("shell_signal", signal_name="INT", **shell)
    await done("shell_read", plain=True, **shell)
    equal("closed", (await done("shell_close", **shell))["closed"], True)


async def services(session, at):
    done = session.done
    named = {"service_name": "one", **at}
    server = "touch up; exec sleep 600"
    started = await done("service_start", command=server, ready_file="up", published_ports=[{"guest_port": 80}], **named)
    equal("published", len(started["published_ports"]), 1)
    await done("service_list", **at)
    await done("service_status", **named)
    await done("service_logs", all=True, **named)
    equal("state", (await done("service_restart", **named))["state"], "running")
    equal("state", (await done("service_stop", **named))["state"], "stopped")
    other = {"service_name": "two", **at}
    refused = await session.refusal("service_start", command="exit 3", ready_command="false", **other)
    equal("blame", refused["blame"] in ("caller", "guest"), True)
    equal("state", (await done("service_status", **other))["state"] in ("failed", "exited"), True)


async def network(session, at):
    await session.done("workspace_network_log", **at)
    await session.done("workspace_network_log", denied=True, limit=1, **at)
    for destination in ["127.0.0.1:80", "192.0.2.1:443"]:
        await session.done("workspace_network_check", destination=destination, **at)


async def disks(session, at, directory):
    done = session.done
    equal("state", (await done("workspace_stop", **at))["state"], "stopped")
    await done("workspace_status", **at)
    await done("workspace_disk_list", path="/etc", limit=2, **at)
    await done("workspace_disk_list", path="/workspace", recursive=True, **at)
    await done("workspace_disk_read", path="/etc/hostname", **at)
    await done("workspace_disk_export", output_path=str(directory / "disk.img"), **at)
    os.remove(directory / "disk.img")
    error = await session.refusal("workspace_exec", command="true", **at)
    hint = f"workspace_start {at['workspace_id']}"
    equal("a hint for who has tools", (error["blame"], error["hint"]), ("caller", hint))
    equal("state", (await done("workspace_start", **at))["state"], "started")


async def snapshots(session, at):
    done = session.done
    await done("snapshot_create", snapshot_name="one", **at)
    equal("snapshots", (await done("snapshot_list", **at))["count"], 2)
    copy = await done("workspace_fork", name="copy", snapshot="one", **at)
    equal("deleted", (await done("workspace_delete", workspace_id=copy["workspace_id"]))["deleted"], True)
    equal("deleted", (await done("snapshot_delete", snapshot_name="one", **at))["deleted"], True)
    equal("resets", (await done("workspace_reset", **at))["reset_count"], 1)


async def story(directory):
    (directory / "seed").mkdir()
    (directory / "seed/note.txt").write_text("begin\n")
    arguments = ["--profile", "workspace-full", "--allow-network", "--allow-path", str(directory)]
    async with over_stdio(*arguments) as session:
        await one_shot(session)
        made = await session.done(
            "workspace_create",
            mem_mib=256,
            seed_path=str(directory / "seed"),
            network_policy="egress+published-ports",
            secrets=[{"name": "token", "value": "not-for-logs"}],
        )
        at = {"workspace_id": made["workspace_id"]}
        try:
            await session.done("workspace_list")
            await session.done("workspace_status", **at)
            await files(session, at, directory)
            await commands(session, at)
            await shells(session, at)
            await services(session, at)
            await network(session, at)
            await session.done("workspace_summary", **at)
            await session.done("workspace_update", name="renamed", labels={"a": "b"}, network_policy="off", **at)
            await snapshots(session, at)
            await disks(session, at, directory)
        finally:
            await session.done("workspace_delete", **at)
        equal("code", (await session.refusal("workspace_status", **at))["code"], "no_such_workspace")
        known = {tool.name for tool in (await session.client.list_tools()).tools}
        if known - session.called:
            raise Mismatch(f"never called: {sorted(known - session.called)}")


if __name__ == "__main__":
    main("every tool", story)
