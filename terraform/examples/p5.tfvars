# The study's pair and judge: p5.48xlarge (8 H100, 80 GB) for the 1.5B beside the 32B with tensor parallelism (infer),
# and for the 72B judge. On demand, and so only where and when AWS has them: capacity-block.tfvars reserves them.
region             = "us-east-2"
bucket_name        = "change-me-tokenfork"
availability_zones = ["us-east-2a"]
cluster_size       = "MEDIUM"

node_groups = {
  infer = { instance_type = "p5.48xlarge", max_nodes = 16 }
  judge = { instance_type = "p5.48xlarge", max_nodes = 4 }
}

# 32B, 72B, 1.5B and the container image are about 230 GB; a node reads them at each start.
shared_storage = { type = "lustre", lustre_gib = 1200 }

budget = { monthly_usd = 20000, emails = ["change-me@example.com"] }
