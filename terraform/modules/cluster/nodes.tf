# What a node is made of: image, launch template, start-up files, rights.

data "aws_region" "current" {}

data "aws_ssm_parameter" "ami" {
  count = var.ami_id == null ? 1 : 0

  name = "/aws/service/pcs/ami/dlami-base-ubuntu2404/x86_64/latest/ami-id"
}

data "aws_ami" "node" {
  # An image that ami_id keeps is deprecated some day, and then found only so.
  include_deprecated = true

  filter {
    name   = "image-id"
    values = [local.ami_id]
  }
}

locals {
  ami_id = var.ami_id == null ? data.aws_ssm_parameter.ami[0].insecure_value : var.ami_id

  # Read by every login, so also by jobs sent from it, and by the scripts below. No node has a way to a model hub.
  profile = { for name, g in local.groups : name => <<-EOT
    export AWS_REGION=${data.aws_region.current.region} AWS_DEFAULT_REGION=${data.aws_region.current.region} HF_HUB_OFFLINE=1
    export TOKENFORK_BUCKET=${var.bucket} TOKENFORK_GPUS=${g.gpus}
    export TOKENFORK_SHARED_TYPE=${var.shared_storage.type} TOKENFORK_SHARED_SOURCE=${local.shared_source}
  EOT
  }

  node_files = [
    { path = "/etc/apparmor.d/tokenfork-apptainer", mode = "644", content = file("${path.module}/node/apptainer.apparmor") },
    { path = "/usr/local/bin/vllm", mode = "755", content = file("${path.module}/node/vllm.sh") },
    { path = "/usr/local/sbin/tokenfork-ready", mode = "755", content = file("${path.module}/node/ready.sh") },
    { path = "/usr/local/sbin/tokenfork-mount", mode = "755", content = file("${path.module}/node/mount.sh") },
    { path = "/usr/local/sbin/tokenfork-stage", mode = "755", content = file("${path.module}/node/stage.sh") },
    { path = "/usr/local/bin/tokenfork-models", mode = "755", content = file("${path.module}/node/models.sh") },
    { path = "/etc/systemd/system/tokenfork-stage.service", mode = "644", content = file("${path.module}/node/stage.service") },
    { path = "/etc/sudoers.d/tokenfork", mode = "440", content = file("${path.module}/node/sudoers") },
  ]

  # PCS adds parts of its own, so it takes user data only as a MIME archive.
  user_data = { for name, profile in local.profile : name => join("\n", [
    "MIME-Version: 1.0",
    "Content-Type: multipart/mixed; boundary=\"==TOKENFORK==\"",
    "",
    "--==TOKENFORK==",
    "Content-Type: text/x-shellscript; charset=\"us-ascii\"",
    "",
    templatefile("${path.module}/node/user-data.sh.tftpl", {
      files = concat([{ path = "/etc/profile.d/tokenfork.sh", mode = "644", content = profile }], local.node_files)
    }),
    "--==TOKENFORK==--",
    "",
  ]) }
}

resource "aws_launch_template" "node" {
  for_each = local.groups

  name                   = "${var.name}-${each.key}"
  update_default_version = true
  instance_type          = each.value.purchase == "CAPACITY_BLOCK" ? each.value.instance_type : null
  user_data              = base64encode(local.user_data[each.key])
  vpc_security_group_ids = length(each.value.efa_cards) == 0 ? [var.security_group_id] : null

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  block_device_mappings {
    device_name = data.aws_ami.node.root_device_name

    ebs {
      volume_type           = "gp3"
      volume_size           = each.value.root_gib
      encrypted             = true
      delete_on_termination = true
    }
  }

  # One address per node: a usual interface, and interfaces for EFA alone.
  dynamic "network_interfaces" {
    for_each = length(each.value.efa_cards) == 0 ? [] : concat(
      [{ card = 0, device = 0, type = "interface" }],
      [for card in each.value.efa_cards : { card = card, device = card == 0 ? 1 : 0, type = "efa-only" }],
    )

    content {
      network_card_index    = network_interfaces.value.card
      device_index          = network_interfaces.value.device
      interface_type        = network_interfaces.value.type
      subnet_id             = local.subnet_ids[each.key][0]
      security_groups       = [var.security_group_id]
      delete_on_termination = true
    }
  }

  dynamic "placement" {
    for_each = contains(keys(aws_placement_group.this), each.key) ? [1] : []

    content {
      group_name = aws_placement_group.this[each.key].name
    }
  }

  dynamic "instance_market_options" {
    for_each = each.value.purchase == "CAPACITY_BLOCK" ? [1] : []

    content {
      market_type = "capacity-block"
    }
  }

  dynamic "capacity_reservation_specification" {
    for_each = each.value.capacity_reservation_id != null ? [1] : []

    content {
      capacity_reservation_target {
        capacity_reservation_id = each.value.capacity_reservation_id
      }
    }
  }

  dynamic "tag_specifications" {
    for_each = toset(["instance", "volume", "network-interface"])

    content {
      resource_type = tag_specifications.value
      tags          = merge(var.tags, { Name = "${var.name}-${each.key}" })
    }
  }

  lifecycle {
    precondition {
      condition     = !each.value.efa || length(each.value.efa_cards) > 0
      error_message = "Group ${each.key}: ${each.value.instance_type} has no EFA; leave efa out."
    }
  }
}

# A capacity block is packed closely by itself, and a reservation lies where it lies.
resource "aws_placement_group" "this" {
  for_each = {
    for name, g in local.groups : name => g
    if length(g.efa_cards) > 0 && g.max_nodes > 1 && g.purchase == "ONDEMAND" && g.capacity_reservation_id == null
  }

  name     = "${var.name}-${each.key}"
  strategy = "cluster"
}

data "aws_iam_policy_document" "node_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

# PCS accepts only a role whose path holds aws-pcs or whose name starts with AWSPCS. Names of roles are the account's, not the region's.
resource "aws_iam_role" "node" {
  name               = "${var.name}-${data.aws_region.current.region}-node"
  path               = "/aws-pcs/"
  assume_role_policy = data.aws_iam_policy_document.node_trust.json
}

resource "aws_iam_instance_profile" "node" {
  name = aws_iam_role.node.name
  path = "/aws-pcs/"
  role = aws_iam_role.node.name
}

data "aws_iam_policy_document" "node" {
  #checkov:skip=CKV_AWS_111:PCS and Session Manager ask for these on every resource
  #checkov:skip=CKV_AWS_356:PCS and Session Manager ask for these on every resource
  statement {
    sid       = "JoinCluster"
    actions   = ["pcs:RegisterComputeNodeGroupInstance"]
    resources = ["*"]
  }

  statement {
    sid = "SessionManager"
    actions = [
      "ssm:UpdateInstanceInformation",
      "ssmmessages:CreateControlChannel",
      "ssmmessages:CreateDataChannel",
      "ssmmessages:OpenControlChannel",
      "ssmmessages:OpenDataChannel",
    ]
    resources = ["*"]
  }
}

resource "aws_iam_role_policy" "node" {
  name   = "cluster-and-sessions"
  role   = aws_iam_role.node.id
  policy = data.aws_iam_policy_document.node.json
}

resource "aws_iam_role_policy_attachment" "node" {
  for_each = { writer = var.writer_policy_arn, reader = var.reader_policy_arn }

  role       = aws_iam_role.node.name
  policy_arn = each.value
}
