# The variables are those of example.tfvars.

run "defaults" {
  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.this.block_public_acls,
      aws_s3_bucket_public_access_block.this.block_public_policy,
      aws_s3_bucket_public_access_block.this.ignore_public_acls,
      aws_s3_bucket_public_access_block.this.restrict_public_buckets,
    ])
    error_message = "the bucket is not closed to the public"
  }

  assert {
    condition     = one(aws_s3_bucket_ownership_controls.this.rule).object_ownership == "BucketOwnerEnforced"
    error_message = "access lists are not switched off"
  }

  assert {
    condition     = one(one(aws_s3_bucket_server_side_encryption_configuration.this.rule).apply_server_side_encryption_by_default).sse_algorithm == "AES256"
    error_message = "the bucket is not encrypted"
  }

  assert {
    condition     = one(aws_s3_bucket_versioning.this.versioning_configuration).status == "Enabled"
    error_message = "the bucket is versioned unless asked otherwise"
  }

  assert {
    condition     = aws_s3_bucket.this.force_destroy == false
    error_message = "destroy would remove what is in the bucket, unasked"
  }

  assert {
    condition = alltrue([
      for s in jsondecode(aws_s3_bucket_policy.this.policy).Statement :
      s.Effect == "Deny" && s.Action == "s3:*" && length(s.Resource) == 2
    ])
    error_message = "the bucket policy does more than deny"
  }

  assert {
    condition     = one([for s in jsondecode(aws_s3_bucket_policy.this.policy).Statement : s.Condition if s.Sid == "TLSOnly"]).Bool["aws:SecureTransport"] == "false"
    error_message = "requests without TLS are not denied"
  }

  assert {
    condition     = one([for s in jsondecode(aws_s3_bucket_policy.this.policy).Statement : s.Condition if s.Sid == "TLS12"]).NumericLessThan["s3:TlsVersion"] == "1.2"
    error_message = "old TLS versions are not denied"
  }

  assert {
    condition     = one(one([for r in aws_s3_bucket_lifecycle_configuration.this.rule : r if r.id == "incomplete-uploads"]).abort_incomplete_multipart_upload).days_after_initiation == 2
    error_message = "incomplete uploads are not removed"
  }

  assert {
    condition = {
      for r in aws_s3_bucket_lifecycle_configuration.this.rule : one(r.filter).prefix => one(r.expiration).days
      if startswith(r.id, "parts-of-")
      } == {
      "jobs/first/parts/"       = 14
      "jobs/team/second/parts/" = 30
    }
    error_message = "the parts of the named jobs, and nothing else, expire"
  }

  assert {
    condition     = one(one([for r in aws_s3_bucket_lifecycle_configuration.this.rule : r if r.id == "replaced-objects"]).noncurrent_version_expiration).noncurrent_days == 30
    error_message = "replaced objects are not removed"
  }

  assert {
    condition     = output.jobs_url == "s3://tokenfork-storage-test/jobs/"
    error_message = "jobs_url is ${output.jobs_url}"
  }

  assert {
    condition     = aws_iam_policy.writer.name == "tokenfork-storage-test-writer" && aws_iam_policy.reader.name == "tokenfork-storage-test-reader"
    error_message = "the policies are not named after the bucket"
  }
}

run "unversioned_and_deletable" {
  command = plan

  variables {
    versioned            = false
    delete_with_contents = true
  }

  assert {
    condition     = one(aws_s3_bucket_versioning.this.versioning_configuration).status == "Suspended"
    error_message = "versioning is still on"
  }

  assert {
    condition     = aws_s3_bucket.this.force_destroy
    error_message = "destroy would stop at the bucket"
  }
}

run "refused_names" {
  command = plan

  variables {
    bucket_name  = "With.Dots"
    jobs_prefix  = "models/x/"
    expire_parts = { "*" = 1 }
  }

  expect_failures = [var.bucket_name, var.jobs_prefix, var.expire_parts]
}
