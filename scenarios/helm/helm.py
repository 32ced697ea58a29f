#!/usr/bin/env python3
"""Helm's install, upgrade, rollback, uninstall and history, by its own libraries as packages bring them (helm-sdkpy, helm-python-sdk).

usage: helm.py COMMAND RELEASE [CHART] [KEY=JSON...] [server=true|false]

KUBECONFIG and NAMESPACE say where; server=false is how Helm 3 writes: three-way patches in place of server-side apply. The first package
can say that and the second can wait in a rollback, so both are used; the code beneath them is the same.
"""

import ctypes
import json
import os
import sys

TOOLS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../.tools/helm")
WAIT_SECS = 90


def write(command, release, chart, values, server):
    """install or upgrade"""
    library = ctypes.CDLL(os.path.join(TOOLS, "helm_sdkpy/_lib/linux-amd64/libhelm_sdkpy.so"))
    library.helm_sdkpy_last_error.restype = ctypes.c_char_p

    def text(value):
        return ctypes.c_char_p(value.encode())

    def check(code):
        if code:
            sys.exit((library.helm_sdkpy_last_error() or b"failed").decode())

    handle, result = ctypes.c_ulonglong(), ctypes.c_char_p()
    namespace, config = text(os.environ["NAMESPACE"]), text(os.environ["KUBECONFIG"])
    check(library.helm_sdkpy_config_create(namespace, config, None, text("{}"), ctypes.byref(handle)))
    options = {"wait": True, "timeout_seconds": WAIT_SECS, "server_side_apply": server}
    call = library.helm_sdkpy_install if command == "install" else library.helm_sdkpy_upgrade
    given = text(json.dumps(values) if values else "")
    check(call(handle, text(release), text(chart), given, text(""), text(json.dumps(options)), ctypes.byref(result)))
    return json.loads(result.value)


def main():
    command, release, *rest = sys.argv[1:]
    chart = rest.pop(0) if rest and "=" not in rest[0] else ""
    values = dict(pair.split("=", 1) for pair in rest)
    server = values.pop("server", "true")
    values = {key: json.loads(value) for key, value in values.items()}
    if command in ("install", "upgrade"):
        print(command, write(command, release, chart, values, server)["version"])
        return
    sys.path.insert(0, TOOLS)
    import helm_python

    config = helm_python.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=os.environ["NAMESPACE"])
    if command == "rollback":
        config.rollback(release, version=values["to"], wait="watcher", timeout=WAIT_SECS)
        print("rollback")
    elif command == "uninstall":
        config.uninstall(release, wait="watcher", timeout=WAIT_SECS)
        print("uninstall")
    elif command == "history":
        for one in config.history(release):
            print(one["revision"] if "revision" in one else one["version"], one["status"])


main()
