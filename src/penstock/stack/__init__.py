"""Everything on one machine: database, Prefect server, gateway and worker as one process tree."""
