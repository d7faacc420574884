# examples/capacity-block.tfvars

run "one_zone" {
  command = plan

  assert {
    condition     = module.network[0].first_zone == "us-east-2b" && length(module.network[0].subnet_ids) == 1
    error_message = "not in the capacity block's zone alone"
  }

  assert {
    condition     = output.partitions == tolist(["gpu", "cpu"])
    error_message = "not one partition with GPUs and one without"
  }
}
