"""One party of an intersection by SecretFlow's SPU; run by `benchmarks.alignment` with an interpreter that has spu."""

from __future__ import annotations

import resource
import sys

from spu import libspu, psi


def main(protocol: str, rank: int, ids: str, out: str, port: int) -> None:
    """From a file of ids to a file of common ids."""
    link = libspu.link
    description = link.Desc()
    description.recv_timeout_ms = 3_600_000
    for i in range(2):
        description.add_party(f"party{i}", f"127.0.0.1:{port + i}")
    config = psi.PsiExecuteConfig(
        protocol_conf=psi.PsiProtocolConfig(
            protocol=psi.PsiProtocol.__members__[protocol],
            receiver_rank=0,
            broadcast_result=True,
            ecdh_params=psi.EcdhParams(curve=psi.EllipticCurveType.CURVE_25519),
        ),
        input_params=psi.InputParams(
            type=psi.SourceType.SOURCE_TYPE_FILE_CSV, path=ids, selected_keys=["id"], keys_unique=True
        ),
        output_params=psi.OutputParams(type=psi.SourceType.SOURCE_TYPE_FILE_CSV, path=out, disable_alignment=True),
    )
    psi.psi_execute(config, link.create_brpc(description, rank))
    print(f"peak={resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
