output "bucket" {
  description = "Name of the bucket."
  value       = module.storage.bucket
}

output "jobs_url" {
  description = "Jobs live below this URL."
  value       = module.storage.jobs_url
}

output "writer_policy_arn" {
  description = "IAM policy for tasks and for whoever plans, submits and merges."
  value       = module.storage.writer_policy_arn
}

output "reader_policy_arn" {
  description = "IAM policy for readers of results."
  value       = module.storage.reader_policy_arn
}

output "cluster_id" {
  description = "PCS id of the cluster, if there is one."
  value       = one(module.cluster[*].cluster_id)
}

output "ami_id" {
  description = "AMI of all nodes; set ami_id to it to keep it."
  value       = one(module.cluster[*].ami_id)
}

output "partitions" {
  description = "Slurm partitions, the default one first."
  value       = try(module.cluster[0].partitions, [])
}

output "connect" {
  description = "Opens a shell on the login node; needs the AWS CLI and its Session Manager plugin."
  value       = local.connect
}

output "next_steps" {
  description = "What to type next."
  value       = var.create_cluster ? local.cluster_steps : local.bucket_steps

  precondition {
    condition     = !var.create_cluster || var.run.gpus <= try(module.cluster[0].gpus[local.partition], 0)
    error_message = "run.gpus: a node of partition ${local.partition} has ${try(module.cluster[0].gpus[local.partition], 0)} GPUs."
  }
}

locals {
  connect = var.create_cluster ? join(" ", [
    "aws ssm start-session --region ${var.region}",
    "--target \"$(aws ec2 describe-instances --region ${var.region}",
    "--filters Name=tag:aws:pcs:compute-node-group-id,Values=${module.cluster[0].login_group_id} Name=instance-state-name,Values=running",
    "--query 'Reservations[0].Instances[0].InstanceId' --output text)\"",
    "--document-name AWS-StartInteractiveCommand --parameters command='sudo -iu ubuntu'",
  ]) : null

  partition = try(module.cluster[0].partitions[0], "")
  bucket    = "s3://${module.storage.bucket}"
  job       = "${module.storage.jobs_url}first"

  models = { for role, name in { small = var.run.small, reference = var.run.reference, judge = var.run.judge } : role => basename(name) if name != null }
  hub    = compact([var.run.small, var.run.reference, var.run.judge])

  sums = "find . -type f -not -path '*/.*' ! -name SHA256SUMS -printf '%P\\n' | xargs sha256sum >SHA256SUMS"

  upload_steps = join("\n     ", concat(
    [
      "(cd software && ${local.sums})",
      "aws s3 cp --recursive --exclude SHA256SUMS software/ ${local.bucket}/software/",
      "aws s3 cp software/SHA256SUMS ${local.bucket}/software/",
    ],
    flatten([for name in local.hub : [
      "hf download ${name} --local-dir models/${basename(name)}",
      "(cd models/${basename(name)} && ${local.sums})",
      "aws s3 cp --recursive --exclude '.*' --exclude SHA256SUMS models/${basename(name)}/ ${local.bucket}/models/${basename(name)}/",
      "aws s3 cp models/${basename(name)}/SHA256SUMS ${local.bucket}/models/${basename(name)}/",
    ]]),
    ["aws s3 cp ${var.run.table} ${local.bucket}/tables/"],
  ))

  model_flags = "--small-model /shared/models/${local.models.small} --reference-model /shared/models/${local.models.reference}"

  submit = join(" ", compact([
    "tokenfork submit --job ${local.job} --partition ${local.partition} --gpus ${var.run.gpus}",
    var.run.infer_flags == "" ? "" : "--infer-flags \"${var.run.infer_flags}\"",
    var.run.judge == null ? "" : "--judge local --judge-model /shared/models/${try(local.models.judge, "")}",
    var.run.judge_flags == "" ? "" : "--judge-flags \"${var.run.judge_flags}\"",
  ]))

  result_steps = "aws s3 sync ${local.job}/ first/ --exclude '*' --include 'results.*' --include 'summary.json' --include 'failures.csv' --include 'report/*'"

  bucket_steps = <<-EOT
    Before you make the cluster: upload what its nodes need (docs/cloud.md, 2), SHA256SUMS of each folder last:
         ${local.upload_steps}
    For a cluster elsewhere: let the role of its tasks write jobs, and readers read them:
         aws iam attach-role-policy --role-name ROLE --policy-arn ${module.storage.writer_policy_arn}
         aws iam attach-role-policy --role-name ROLE --policy-arn ${module.storage.reader_policy_arn}
    Then, where that role holds:
         export AWS_REGION=${var.region}
         tokenfork plan TABLE --job ${local.job} --small-model PATH --reference-model PATH
         tokenfork submit --job ${local.job}
  EOT

  cluster_steps = <<-EOT
    1. Unless you have, upload what nodes need (docs/cloud.md, 2), SHA256SUMS of each folder last:
         ${local.upload_steps}
    2. Connect to the login node:
         ${coalesce(local.connect, "-")}
    3. There:
         sudo tokenfork-setup        # copies the uploads to /shared; ends with "ready"
         cd /shared/work
         tokenfork plan ${local.bucket}/tables/${basename(var.run.table)} --job ${local.job} ${local.model_flags} --shard-time 90m --shard-gpus ${var.run.gpus}${var.run.plan_flags == "" ? "" : " ${var.run.plan_flags}"}
         srun --partition ${local.partition} --gres gpu:${var.run.gpus} tokenfork doctor --job ${local.job} ${local.model_flags}
         ${local.submit} --dry-run
         ${local.submit}
         tokenfork status --job ${local.job} --watch
    4. The results, here or wherever the reader policy holds:
         ${local.result_steps}
  EOT
}
