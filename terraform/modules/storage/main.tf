# One private bucket for jobs, models and software, and the least rights on it.

data "aws_partition" "current" {}

locals {
  bucket_arn = "arn:${data.aws_partition.current.partition}:s3:::${var.bucket_name}"

  # Only people write these: a task can't change the models and programs that tasks run.
  read_only_prefixes = ["images/", "models/", "software/", "tables/"]
}

resource "aws_s3_bucket" "this" {
  #checkov:skip=CKV_AWS_144:a copy in another region doubles the cost of data that a run can make again
  #checkov:skip=CKV_AWS_18:access logs are an account's choice; CloudTrail data events give the same
  #checkov:skip=CKV_AWS_145:SSE-S3 encrypts at rest; a key of one's own would need key rights for every task
  #checkov:skip=CKV2_AWS_62:nothing listens to this bucket's events
  bucket        = var.bucket_name
  force_destroy = var.delete_with_contents
}

resource "aws_s3_bucket_public_access_block" "this" {
  bucket                  = aws_s3_bucket.this.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  #checkov:skip=CKV2_AWS_65:BucketOwnerEnforced is what switches access lists off
  bucket = aws_s3_bucket.this.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  bucket = aws_s3_bucket.this.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_versioning" "this" {
  bucket = aws_s3_bucket.this.id

  versioning_configuration {
    status = var.versioned ? "Enabled" : "Suspended"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  bucket = aws_s3_bucket.this.id

  # Pieces of an upload that was cut off are invisible but billed.
  rule {
    id     = "incomplete-uploads"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }

  rule {
    id     = "replaced-objects"
    status = "Enabled"

    filter {}

    noncurrent_version_expiration {
      noncurrent_days = var.noncurrent_days
    }

    expiration {
      expired_object_delete_marker = true
    }
  }

  # A lifecycle rule can't know that a job is merged, so each job is named.
  dynamic "rule" {
    for_each = var.expire_parts

    content {
      id     = "parts-of-${rule.key}"
      status = "Enabled"

      filter {
        prefix = "${var.jobs_prefix}${rule.key}/parts/"
      }

      expiration {
        days = rule.value
      }
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

data "aws_iam_policy_document" "bucket" {
  statement {
    sid       = "TLSOnly"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [local.bucket_arn, "${local.bucket_arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }

  statement {
    sid       = "TLS12"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [local.bucket_arn, "${local.bucket_arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "NumericLessThan"
      variable = "s3:TlsVersion"
      values   = ["1.2"]
    }
  }
}

resource "aws_s3_bucket_policy" "this" {
  bucket = aws_s3_bucket.this.id
  policy = data.aws_iam_policy_document.bucket.json

  # S3 refuses the two changes at once.
  depends_on = [aws_s3_bucket_public_access_block.this]
}

# What a task, and whoever plans, submits and merges, does with a job. A conditional put needs no more than a put.
data "aws_iam_policy_document" "writer" {
  statement {
    sid       = "ListJobs"
    actions   = ["s3:ListBucket"]
    resources = [local.bucket_arn]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["${var.jobs_prefix}*"]
    }
  }

  statement {
    sid = "ReadAndWriteJobs"
    actions = [
      "s3:GetObject",
      "s3:PutObject",
      "s3:DeleteObject",
      "s3:AbortMultipartUpload",
    ]
    resources = ["${local.bucket_arn}/${var.jobs_prefix}*"]
  }
}

# What someone who looks at results does, and a node that fetches tables, models, images and software.
data "aws_iam_policy_document" "reader" {
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [local.bucket_arn]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = [for prefix in concat([var.jobs_prefix], local.read_only_prefixes) : "${prefix}*"]
    }
  }

  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = [for prefix in concat([var.jobs_prefix], local.read_only_prefixes) : "${local.bucket_arn}/${prefix}*"]
  }
}

resource "aws_iam_policy" "writer" {
  name        = "${var.bucket_name}-writer"
  description = "tokenfork: read and write jobs below s3://${var.bucket_name}/${var.jobs_prefix}"
  policy      = data.aws_iam_policy_document.writer.json
}

resource "aws_iam_policy" "reader" {
  name        = "${var.bucket_name}-reader"
  description = "tokenfork: read jobs, tables, models, images and software in s3://${var.bucket_name}"
  policy      = data.aws_iam_policy_document.reader.json
}
