# Many cheap nodes that may be taken away: g6e.12xlarge (4 L40S) holds the 32B with tensor parallelism 4 and, by memory
# fraction, the 1.5B. An interrupted task loses what was in flight and is queued again.
region             = "us-west-2"
bucket_name        = "change-me-tokenfork"
availability_zones = ["us-west-2a", "us-west-2b", "us-west-2c"]
cluster_size       = "MEDIUM"

node_groups = {
  gpu = { instance_type = "g6e.12xlarge", max_nodes = 64, purchase = "SPOT", efa = false }
}

shared_storage = { type = "lustre", lustre_gib = 2400 }
