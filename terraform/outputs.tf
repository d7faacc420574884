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

  upload_steps = join("\n     ", [
    "aws s3 cp --recursive --exclude SHA256SUMS software/ s3://${module.storage.bucket}/software/",
    "aws s3 cp software/SHA256SUMS s3://${module.storage.bucket}/software/",
    "aws s3 cp --recursive --exclude '.*' --exclude SHA256SUMS models/MODEL/ s3://${module.storage.bucket}/models/MODEL/",
    "aws s3 cp models/MODEL/SHA256SUMS s3://${module.storage.bucket}/models/MODEL/",
    "aws s3 cp TABLE s3://${module.storage.bucket}/tables/",
  ])

  bucket_steps = <<-EOT
    Before you make the cluster: upload what its nodes need (docs/cloud.md, 2), SHA256SUMS of each folder last:
         ${local.upload_steps}
    For a cluster elsewhere: let the role of its tasks write jobs, and readers read them:
         aws iam attach-role-policy --role-name ROLE --policy-arn ${module.storage.writer_policy_arn}
         aws iam attach-role-policy --role-name ROLE --policy-arn ${module.storage.reader_policy_arn}
    Then, where that role holds:
         export AWS_REGION=${var.region}
         tokenfork plan TABLE --job ${module.storage.jobs_url}first --small-model PATH --reference-model PATH
         tokenfork submit --job ${module.storage.jobs_url}first
  EOT

  cluster_steps = <<-EOT
    1. Unless you have, upload what nodes need (docs/cloud.md, 2), SHA256SUMS of each folder last:
         ${local.upload_steps}
    2. Connect to the login node:
         ${coalesce(local.connect, "-")}
    3. There:
         sudo tokenfork-setup        # copies the uploads to /shared; ends with "ready"
         cd /shared/work
         tokenfork plan s3://${module.storage.bucket}/tables/TABLE --job ${module.storage.jobs_url}first \
           --small-model /shared/models/SMALL --reference-model /shared/models/REFERENCE
         export SBATCH_PARTITION=${local.partition} SBATCH_GPUS_PER_NODE=${try(module.cluster[0].gpus[local.partition], 0)}
         tokenfork submit --job ${module.storage.jobs_url}first --dry-run
         tokenfork submit --job ${module.storage.jobs_url}first
         tokenfork status --job ${module.storage.jobs_url}first --watch
  EOT
}
