"""A worker process of a test: ``worker_process.py URL NAMESPACE LEASE_S MODULE AGENT…``; says ``ready``, runs on."""

import asyncio
import importlib
import sys

from spine import Spine, Worker


async def main(url: str, namespace: str, lease_s: str, module: str, *agents: str) -> None:
    found = importlib.import_module(module)
    chosen = [getattr(found, agent) for agent in agents]
    async with Spine(url, namespace=namespace) as spine, Worker(spine, *chosen, lease_s=float(lease_s)):
        print("ready", flush=True)
        await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
