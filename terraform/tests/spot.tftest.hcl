# examples/spot.tfvars

run "three_zones" {
  command = plan

  assert {
    condition     = length(module.network[0].subnet_ids) == 3 && module.cluster[0].gpus == { gpu = 4 }
    error_message = "not nodes with 4 GPUs in three zones"
  }
}
