"""Workflows as Prefect flow runs. The only package that imports Prefect."""
