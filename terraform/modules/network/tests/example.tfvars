name               = "tf-net"
availability_zones = ["us-east-1b", "us-east-1a"]
bucket_arn         = "arn:aws:s3:::tokenfork-network-test"
