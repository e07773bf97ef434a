"""The HTTP API and the page: `unfuse serve`. Needs the extra `serve`.

Read `app` first (the routes), then `jobs` (the queue), `worker` (what decomposes), `bench` (what edits), `store` (the
disk) and `safety` (who may ask, and what for). Three kinds of processes: the server itself never decodes a picture and
never runs an engine; `worker` processes, one a device, run engines; `bench` processes edit, draw and export stacks; and
for every upload there is a process of its own that decodes it (`decoding`), with limits on memory and time.
"""
