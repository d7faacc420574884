# p5 nodes of a Capacity Block for ML, bought for certain days in one zone: its id, size and zone go here.
region             = "us-east-2"
bucket_name        = "change-me-tokenfork"
availability_zones = ["us-east-2b"]

node_groups = {
  gpu = { instance_type = "p5.48xlarge", max_nodes = 8, purchase = "CAPACITY_BLOCK", capacity_reservation_id = "cr-0123456789abcdef0" }
  cpu = { instance_type = "m7i.2xlarge", max_nodes = 1 }
}

# As in p5.tfvars.
run = {
  table       = "table.csv"
  small       = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
  reference   = "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"
  judge       = "Qwen/Qwen2.5-72B-Instruct"
  gpus        = 4
  infer_flags = "--reference-tp 2"
  judge_flags = "--judge-tp 4"
  gpu_hours   = { infer = 6, judge = 82 }
  stored_gb   = 230
}

# The block is paid for in advance and whole, in days: one day of 8 nodes is most of this.
budget = { monthly_usd = 8200, emails = ["change-me@example.com"] }
