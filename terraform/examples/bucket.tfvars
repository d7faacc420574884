# The bucket and its rights alone: for a cluster that you have, or to take a cluster away and keep the data.
region         = "us-east-1"
bucket_name    = "change-me-tokenfork"
create_cluster = false
