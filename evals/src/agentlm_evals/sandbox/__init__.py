"""Linux namespaces in which strangers' commands run: an overlay on a small root, no network, caps on everything.

`box.Sandbox` is what tasks use. Modules: `limits` what a sandbox may take; `namespaces` the system calls; `keeper` the
process that builds a sandbox and is its init; `caps` cgroups; `image` the root file system; `shell` a login shell in it.
Refuses to know tasks and models. This file imports nothing, so that the keeper starts fast.
"""
