#!/usr/bin/env python3
"""usage: masters.py NAMESRV: prints the brokers that are registered as masters; status 1 while there is none."""
import json
import re
import socket
import struct
import sys

GET_BROKER_CLUSTER_INFO = 106


def cluster_info(namesrv):
    host, port = namesrv.rsplit(":", 1)
    head = json.dumps({"code": GET_BROKER_CLUSTER_INFO, "language": "OTHER", "version": 459, "opaque": 1,
                       "flag": 0, "serializeTypeCurrentRPC": "JSON"}).encode()
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(struct.pack(">II", 4 + len(head), len(head)) + head)
        stream = connection.makefile("rb")
        length, = struct.unpack(">I", stream.read(4))
        frame = stream.read(length)
    head_length = struct.unpack(">I", frame[:4])[0] & 0xFFFFFF
    return frame[4 + head_length:].decode()


def main():
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return 2
    # The original writes map keys as bare numbers, which is not JSON: hence no json.loads.
    found = re.findall(r'"brokerAddrs":\{[^}]*?"?\b0"?:"([^"]+)"', cluster_info(sys.argv[1]))
    print("\n".join(found))
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
