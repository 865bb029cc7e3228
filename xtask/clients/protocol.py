"""What the official Python SDK finds in `pyro mcp serve`: tools and schemas, errors, progress, cancellation.

    protocol.py TRANSPORT SURFACE

TRANSPORT is `stdio`, or `http` with the server's URL in PYRO_URL and its token in PYRO_TOKEN. SURFACE is one of the
profiles.
"""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import anyio
import httpx2
from jsonschema import Draft202012Validator
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.types import ListRootsResult, Root

from pyro_client import Mismatch, Session, contains, equal, main, parameters

COUNTS = {"vm-run": 1, "workspace-core": 17, "workspace-full": 55}


@contextlib.asynccontextmanager
async def connected(transport, profile, mode):
    if transport == "stdio":
        async with Client(parameters("--profile", profile), mode=mode) as client:
            yield Session(client)
        return
    headers = {"Authorization": f"Bearer {os.environ['PYRO_TOKEN']}"}
    async with httpx2.AsyncClient(headers=headers, timeout=600) as http:
        async with Client(streamable_http_client(os.environ["PYRO_URL"], http_client=http), mode=mode) as client:
            yield Session(client)


async def surface(session, profile):
    client = session.client
    equal("server", client.server_info.name, "pyro")
    contains("instructions", client.instructions, "disposable Linux machine")
    tools = (await client.list_tools()).tools
    equal("tools", len(tools), COUNTS[profile])
    for tool in tools:
        Draft202012Validator.check_schema(tool.input_schema)
        Draft202012Validator.check_schema(tool.output_schema)
        equal(f"{tool.name}: more arguments", tool.input_schema["additionalProperties"], False)


async def errors(session, profile):
    try:
        await session.client.call_tool("no_such_tool", {})
        raise Mismatch("an unknown tool is called")
    except MCPError as error:
        equal("code of an unknown tool", error.code, -32602)
        contains("message", str(error), "no_such_tool")
    for arguments in [{"command": 1}, {}, {"command": "true", "mem_mib": "much"}, {"command": "true", "surplus": 1}]:
        error = await session.refusal("vm_run", **arguments)
        equal(f"code of {arguments}", (error["code"], error["blame"]), ("invalid_arguments", "caller"))
    error = await session.refusal("vm_run", command="true", mem_mib=1)
    equal("blame", error["blame"], "caller")
    if profile != "vm-run":
        error = await session.refusal("workspace_status", workspace_id="nowhere")
        equal("code", error["code"], "no_such_workspace")


def progress():
    notes = []

    async def note(progress, total, message):
        notes.append((progress, message))

    def told(what):
        counts = [count for count, _ in notes]
        equal(f"progress of {what} grows", counts, sorted(set(counts)))
        equal(f"progress of {what} is told", bool(notes) and all(message for _, message in notes), True)

    return note, told


async def one_shot(session):
    note, told = progress()
    arguments = {"command": "echo out; echo err >&2; exit 3", "mem_mib": 256}
    ran = (await session.call("vm_run", arguments, progress_callback=note)).structured_content
    equal("vm_run", (ran["exit_code"], ran["stdout"], ran["stderr"]), (3, "out\n", "err\n"))
    told("vm_run")


async def workspace(session):
    note, told = progress()
    made = await session.call("workspace_create", {"mem_mib": 256}, progress_callback=note)
    workspace_id = made.structured_content["workspace_id"]
    told("workspace_create")
    try:
        await cancelled(session, workspace_id)
    finally:
        await session.done("workspace_delete", workspace_id=workspace_id)


async def cancelled(session, workspace_id):
    """A call that is given up ends in the guest as well, and disturbs no other."""

    async def output(command):
        ran = await session.done("workspace_exec", workspace_id=workspace_id, command=command)
        equal(f"exit code of {command}", ran["exit_code"], 0)
        return ran["stdout"]

    equal("exec", await output("echo 1"), "1\n")
    told = anyio.Event()

    async def note(*_):
        told.set()

    async def long():
        # It prints nothing, and is told of nevertheless.
        command = "touch begun; exec sleep 600.5"
        arguments = {"workspace_id": workspace_id, "command": command, "timeout_seconds": 600}
        await session.call("workspace_exec", arguments, progress_callback=note)

    async with anyio.create_task_group() as calls:
        calls.start_soon(long)
        await output("until test -e begun; do sleep 0.1; done")
        with anyio.fail_after(60):
            await told.wait()
        calls.cancel_scope.cancel()
    # The notification is on its way; the guest is asked until it has arrived, and the command is out of time otherwise.
    await output("while grep -qs '600[.]5' /proc/[0-9]*/cmdline; do sleep 0.1; done")


async def roots():
    """Where nothing of the host is granted, what the client names as its own counts, however it is asked for."""
    with tempfile.TemporaryDirectory() as own:

        async def listed(_):
            return ListRootsResult(roots=[Root(uri=Path(own).as_uri())])

        for mode in ["auto", "legacy"]:
            options = {"mode": mode, "list_roots_callback": listed}
            async with Client(parameters("--no-project-source"), **options) as client:
                session = Session(client)
                for path, code in [("new", "no_such_workspace"), ("/etc/new", "path_not_allowed")]:
                    arguments = {"workspace_id": "nowhere", "path": "file", "output_path": path}
                    error = await session.refusal("workspace_export", **arguments)
                    equal(f"{mode}: {path}", error["code"], code)


async def story(transport, profile):
    if transport == "stdio":
        await roots()
    for mode in ["auto", "legacy"]:
        async with connected(transport, profile, mode) as session:
            await surface(session, profile)
            await errors(session, profile)
            if mode == "legacy":
                continue
            if profile == "vm-run":
                await one_shot(session)
            if profile == "workspace-core":
                await workspace(session)


if __name__ == "__main__":
    transport, profile = sys.argv[1:]
    main(f"{transport} {profile}", lambda _: story(transport, profile))
