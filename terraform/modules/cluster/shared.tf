# The file system at /shared: the folder jobs are sent from, Slurm's and the nodes' logs. Models and software are on each
# node's own disk, results in the bucket.

locals {
  efs    = var.shared_storage.type == "efs"
  lustre = var.shared_storage.type == "lustre"

  shared_source = (
    local.efs
    ? "${aws_efs_file_system.shared[0].id}:/"
    : "${aws_fsx_lustre_file_system.shared[0].dns_name}@tcp:/${aws_fsx_lustre_file_system.shared[0].mount_name}"
  )
}

resource "aws_efs_file_system" "shared" {
  #checkov:skip=CKV_AWS_184:the AWS key encrypts; a key of one's own protects nothing more here
  #checkov:skip=CKV2_AWS_18:a backup of copies is waste
  count = local.efs ? 1 : 0

  encrypted       = true
  throughput_mode = "elastic"

  tags = { Name = "${var.name}-shared" }
}

resource "aws_efs_mount_target" "shared" {
  for_each = local.efs ? var.subnet_ids : {}

  file_system_id  = aws_efs_file_system.shared[0].id
  subnet_id       = each.value
  security_groups = [var.security_group_id]
}

data "aws_iam_policy_document" "shared" {
  count = local.efs ? 1 : 0

  statement {
    sid = "NodesOnly"
    actions = [
      "elasticfilesystem:ClientMount",
      "elasticfilesystem:ClientWrite",
      "elasticfilesystem:ClientRootAccess",
    ]
    resources = [aws_efs_file_system.shared[0].arn]

    principals {
      type        = "AWS"
      identifiers = [aws_iam_role.node.arn]
    }

    condition {
      test     = "Bool"
      variable = "elasticfilesystem:AccessedViaMountTarget"
      values   = ["true"]
    }
  }

  statement {
    sid       = "TLSOnly"
    effect    = "Deny"
    actions   = ["*"]
    resources = [aws_efs_file_system.shared[0].arn]

    principals {
      type        = "AWS"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_efs_file_system_policy" "shared" {
  count = local.efs ? 1 : 0

  file_system_id = aws_efs_file_system.shared[0].id
  policy         = data.aws_iam_policy_document.shared[0].json
}

resource "aws_fsx_lustre_file_system" "shared" {
  #checkov:skip=CKV_AWS_190:the AWS key encrypts; a key of one's own protects nothing more here
  count = local.lustre ? 1 : 0

  deployment_type             = var.shared_storage.lustre_deployment
  file_system_type_version    = "2.15"
  storage_type                = "SSD"
  storage_capacity            = var.shared_storage.lustre_gib
  per_unit_storage_throughput = var.shared_storage.lustre_throughput
  subnet_ids                  = [var.subnet_ids[var.first_zone]]
  security_group_ids          = [var.security_group_id]

  # Otherwise destroy leaves a backup behind.
  skip_final_backup = true

  tags = { Name = "${var.name}-shared" }
}
