"""A website checker as one writes it in Python: one process, asyncio on uvloop, aiohttp, asyncpg, rows by COPY in batches.

It checks what `peer.sites` holds and writes what Picket writes of a check, phases too, into `peer.check_results`, a table of the
same columns and key. Like Picket's check each makes a fresh connection and reads the body to its end. Two ways to know what
is due, which are what such programs do:

  loops   a coroutine for each site, which sleeps until its next tick; the sites are read once, at the start
  claims  a few times a second: UPDATE … SKIP LOCKED takes what is due, so that several processes could share the work

Usage: DATABASE_URL=postgres://… checker.py loops|claims PORT; answers HTTP on PORT when it runs; ends with SIGTERM.
"""

import asyncio
import datetime
import os
import signal
import sys
import time

import aiohttp
import asyncpg
import uvloop

# The same as the sink's batches.
FLUSH_SECONDS = 0.25
# How often what is due is claimed: lateness is half of it on average.
CLAIM_SECONDS = 0.1
CLAIM_MOST = 2_000
AT_ONCE = 1_000
TIMEOUT = aiohttp.ClientTimeout(total=10)
COLUMNS = ["scheduled_at", "site_id", "kind", "outcome", "cause", "lateness_us", "dns_us", "connect_us", "first_byte_us",
           "transfer_us", "total_us", "body_bytes", "region_id", "http_status", "redirects", "http_version", "remote_addr",
           "prober", "message"]

CLAIM = """
    WITH due AS (SELECT id, next_at FROM peer.sites WHERE next_at <= now() ORDER BY next_at LIMIT $1 FOR UPDATE SKIP LOCKED)
    UPDATE peer.sites AS site SET next_at = due.next_at + make_interval(secs => site.interval_seconds)
    FROM due WHERE site.id = due.id RETURNING site.id, site.url, due.next_at"""


def micros(start, end):
    return None if start is None or end is None else int((end - start) * 1e6)


class Checker:
    def __init__(self, pool):
        self.pool = pool
        self.rows = []
        self.slots = asyncio.Semaphore(AT_ONCE)
        self.running = set()
        self.session = None

    def open(self):
        trace = aiohttp.TraceConfig()

        def mark(name):
            async def marked(_session, context, _params):
                context.trace_request_ctx[name] = time.perf_counter()
            return marked

        trace.on_dns_resolvehost_start.append(mark("dns_start"))
        trace.on_dns_resolvehost_end.append(mark("dns_end"))
        trace.on_connection_create_start.append(mark("connect_start"))
        trace.on_connection_create_end.append(mark("connect_end"))
        connector = aiohttp.TCPConnector(force_close=True, limit=0, use_dns_cache=False)
        self.session = aiohttp.ClientSession(connector=connector, trace_configs=[trace], timeout=TIMEOUT)

    async def check(self, site, url, due):
        async with self.slots:
            started = time.time()
            marks, begun = {}, time.perf_counter()
            outcome, cause, message, status, version, body, head, peer = "up", None, None, None, None, 0, None, None
            try:
                async with self.session.get(url, trace_request_ctx=marks, max_redirects=10) as response:
                    head = time.perf_counter()
                    peer = response.connection and response.connection.transport.get_extra_info("peername")
                    status, version = response.status, f"{response.version.major}.{response.version.minor}"
                    async for chunk in response.content.iter_any():
                        body += len(chunk)
                    if not 200 <= status < 300:
                        outcome, cause = "down", "status"
            except asyncio.TimeoutError:
                outcome, cause, message = "down", "timeout", "no answer in time"
            except aiohttp.ClientConnectorError as error:
                outcome, cause, message = "down", "connect", str(error)
            except aiohttp.ClientError as error:
                outcome, cause, message = "down", "http", str(error)
            done = time.perf_counter()
        self.rows.append((
            datetime.datetime.fromtimestamp(due, datetime.timezone.utc), site, "scheduled", outcome, cause,
            int((started - due) * 1e6), micros(marks.get("dns_start"), marks.get("dns_end")),
            micros(marks.get("connect_start"), marks.get("connect_end")), micros(marks.get("connect_end"), head),
            micros(head, done), micros(begun, done), body, 1, status, 0, version,
            f"{peer[0]}:{peer[1]}" if peer else None, "python", message))

    def spawn(self, site, url, due):
        task = asyncio.create_task(self.check(site, url, due))
        self.running.add(task)
        task.add_done_callback(self.running.discard)

    async def loop(self, site, url, interval, due):
        while True:
            await asyncio.sleep(max(0.0, due - time.time()))
            await self.check(site, url, due)
            due += interval

    async def loops(self):
        sites = await self.pool.fetch("SELECT id, url, interval_seconds, next_at FROM peer.sites")
        await asyncio.gather(*(self.loop(site["id"], site["url"], site["interval_seconds"], site["next_at"].timestamp())
                               for site in sites))

    async def claims(self):
        while True:
            begun = time.monotonic()
            claimed = await self.pool.fetch(CLAIM, CLAIM_MOST)
            for site, url, due in claimed:
                self.spawn(site, url, due.timestamp())
            if len(claimed) < CLAIM_MOST:
                await asyncio.sleep(max(0.0, CLAIM_SECONDS - (time.monotonic() - begun)))

    async def flush(self):
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            if self.rows:
                rows, self.rows = self.rows, []
                async with self.pool.acquire() as connection:
                    await connection.copy_records_to_table(
                        "check_results", schema_name="peer", columns=COLUMNS, records=rows)


async def serve(port):
    async def answer(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    await asyncio.start_server(answer, "127.0.0.1", port)


async def main(mode, port):
    pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1, max_size=4)
    checker = Checker(pool)
    checker.open()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    work = [asyncio.create_task(part) for part in (getattr(checker, mode)(), checker.flush(), stopped.wait())]
    await serve(port)
    done, left = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
    await checker.session.close()
    for task in done:
        task.result()


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("loops", "claims"):
        sys.exit(__doc__)
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
