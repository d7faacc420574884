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

output "connect_gpu" {
  description = "Opens a shell on a running GPU node, also where Slurm does not reach it."
  value       = local.connect_gpu
}

output "logs" {
  description = "Shows what the scheduler did in the last hour: nodes started and ended, with reasons, and jobs."
  value       = var.create_cluster ? "aws logs tail ${module.cluster[0].log_group} --region ${var.region} --since 1h" : null
}

output "bill" {
  description = "What the cluster costs by terraform/prices.json, in dollars: list prices that you must check."
  value       = local.bill
}

output "next_steps" {
  description = "What to type next."
  value       = var.create_cluster ? local.cluster_steps : local.bucket_steps

  precondition {
    condition     = !var.create_cluster || local.partition != null
    error_message = "run.gpus: no group of node_groups has nodes with ${var.run.gpus} GPUs: ${jsonencode(try(module.cluster[0].gpus, {}))}."
  }
}

locals {
  # What stands before and after the PCS id of a node group.
  shell = [
    "aws ssm start-session --region ${var.region} --target \"$(aws ec2 describe-instances --region ${var.region} --filters Name=tag:aws:pcs:compute-node-group-id,Values=",
    join(" ", [
      " Name=instance-state-name,Values=running --query 'Reservations[0].Instances[0].InstanceId' --output text)\"",
      "--document-name AWS-StartInteractiveCommand --parameters command='sudo -iu ubuntu'",
    ]),
  ]
  connect     = var.create_cluster ? join(module.cluster[0].login_group_id, local.shell) : null
  connect_gpu = local.partition == null ? null : join(module.cluster[0].node_group_ids[local.partition], local.shell)

  # The group whose nodes have GPUs for a task, the one with the fewest; and one without GPUs for the rest.
  gpus          = try(module.cluster[0].gpus, {})
  by_gpus       = sort([for name, n in local.gpus : format("%04d %s", n, name) if n >= max(var.run.gpus, 1)])
  partition     = length(local.by_gpus) > 0 ? split(" ", local.by_gpus[0])[1] : null
  cpu_partition = try(sort([for name, n in local.gpus : name if n == 0])[0], null)

  # A task's share of its node's CPUs. Slurm may not know them while no node runs.
  cpus = try(max(floor(module.cluster[0].cpus[local.partition] * var.run.gpus / local.gpus[local.partition]), 1), 1)

  bucket = "s3://${module.storage.bucket}"
  job    = "${module.storage.jobs_url}first"

  models = { for role, name in { small = var.run.small, reference = var.run.reference, judge = var.run.judge } : role => basename(name) if name != null }
  hub    = compact([var.run.small, var.run.reference, var.run.judge])

  sums = "find . -type f -not -path '*/.*' ! -name SHA256SUMS -printf '%P\\n' | xargs sha256sum >SHA256SUMS"

  upload_steps = join("\n     ", concat(
    flatten([
      for folder in ["software", "images/vllm"] : [
        "(cd ${folder} && ${local.sums})",
        "aws s3 cp --recursive --exclude SHA256SUMS ${folder}/ ${local.bucket}/${folder}/",
        "aws s3 cp ${folder}/SHA256SUMS ${local.bucket}/${folder}/",
      ]
    ]),
    flatten([for name in local.hub : [
      "hf download ${name} --local-dir models/${basename(name)}",
      "(cd models/${basename(name)} && ${local.sums})",
      "aws s3 cp --recursive --exclude '.*' --exclude SHA256SUMS models/${basename(name)}/ ${local.bucket}/models/${basename(name)}/",
      "aws s3 cp models/${basename(name)}/SHA256SUMS ${local.bucket}/models/${basename(name)}/",
    ]]),
    ["aws s3 cp ${var.run.table} ${local.bucket}/tables/"],
  ))

  model_flags = "--small-model /scratch/models/${local.models.small} --reference-model /scratch/models/${local.models.reference}"

  with_models = "tokenfork-models ${join(" ", [for name in distinct(values(local.models)) : "models/${name}"])}"

  submit = join(" ", compact([
    "tokenfork submit --job ${local.job} ${local.model_flags} --partition ${coalesce(local.partition, "-")} --gpus ${var.run.gpus} --cpus ${local.cpus}",
    "--prologue '. tokenfork-models'",
    local.cpu_partition == null ? "" : "--cpu-sbatch \"--partition=${coalesce(local.cpu_partition, "-")}\"",
    var.run.infer_flags == "" ? "" : "--infer-flags \"${var.run.infer_flags}\"",
    var.run.judge == null ? "" : "--judge local --judge-model /scratch/models/${try(local.models.judge, "")}",
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
         sudo tokenfork-stage        # installs the software, copies the models without weights; ends with "ready"
         cd /shared/work
         ${local.cpu_partition == null ? "" : "srun --partition ${coalesce(local.cpu_partition, "-")} ${local.with_models} -- "}tokenfork plan ${local.bucket}/tables/${basename(var.run.table)} --job ${local.job} ${local.model_flags} --shard-time 90m --shard-gpus ${var.run.gpus}${var.run.plan_flags == "" ? "" : " ${var.run.plan_flags}"}
         srun --partition ${coalesce(local.partition, "-")} --gres gpu:${var.run.gpus} --cpus-per-task ${local.cpus} ${local.with_models} -- tokenfork doctor --job ${local.job} ${local.model_flags}
         ${local.submit} --dry-run
         ${local.submit}
         tokenfork status --job ${local.job} --watch
       When a task waits for long or its node fails: logs in /shared/work/nodes, and here
         ${var.create_cluster ? "aws logs tail ${module.cluster[0].log_group} --region ${var.region} --since 1h" : "-"}
         ${coalesce(local.connect_gpu, "-")}
    4. The results, here or wherever the reader policy holds:
         ${local.result_steps}
  EOT
}
