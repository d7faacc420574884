name              = "tf-cluster"
subnet_ids        = { "us-east-1a" = "subnet-0aaaaaaaaaaaaaaaa", "us-east-1b" = "subnet-0bbbbbbbbbbbbbbbb" }
first_zone        = "us-east-1a"
security_group_id = "sg-0aaaaaaaaaaaaaaaa"
bucket            = "tokenfork-cluster-test"
writer_policy_arn = "arn:aws:iam::123456789012:policy/writer"
reader_policy_arn = "arn:aws:iam::123456789012:policy/reader"

node_groups = {
  gpu = { instance_type = "g6e.4xlarge", max_nodes = 2 }
}
