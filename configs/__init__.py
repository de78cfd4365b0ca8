"""The packaged experiment configurations, one YAML file each."""
