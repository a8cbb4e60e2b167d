"""A worker process of a test: ``worker_process.py URL NAMESPACE LEASE_S SLOTS MODULE AGENT…``; says ``ready``."""

import asyncio
import importlib
import sys

from spine import Spine, Worker


async def main(url: str, namespace: str, lease_s: str, slots: str, module: str, *agents: str) -> None:
    found = importlib.import_module(module)
    chosen = [getattr(found, agent) for agent in agents]
    options = {"lease_s": float(lease_s), "concurrency": int(slots) or None}
    async with Spine(url, namespace=namespace) as spine, Worker(spine, *chosen, **options):
        print("ready", flush=True)
        await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
