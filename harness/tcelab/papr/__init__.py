"""The platform's rules as PAPR and QEMU's pseries machine have them: pure, importing nothing of ours."""
