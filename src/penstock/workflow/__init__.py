"""The workflow file: parsed, checked and evaluated. Pure: no Prefect, no I/O."""
