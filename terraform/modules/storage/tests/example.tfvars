bucket_name  = "tokenfork-storage-test"
expire_parts = { "first" = 14, "team/second" = 30 }
