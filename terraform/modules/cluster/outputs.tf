output "cluster_id" {
  description = "PCS id of the cluster."
  value       = awscc_pcs_cluster.this.cluster_id
}

output "login_group_id" {
  description = "PCS id of the login node's group; its instance carries it as the tag aws:pcs:compute-node-group-id."
  value       = awscc_pcs_compute_node_group.this["login"].compute_node_group_id
}

output "ami_id" {
  description = "AMI of all nodes; set ami_id to it to keep it."
  value       = local.ami_id
}

output "partitions" {
  description = "Slurm partitions, the default one first."
  value       = tolist(concat([local.default_partition], [for name in sort(keys(awscc_pcs_queue.this)) : name if name != local.default_partition]))
}

output "node_group_ids" {
  description = "PCS ids of the node groups, by partition; their instances carry them as the tag aws:pcs:compute-node-group-id."
  value       = { for name in local.partitions : name => awscc_pcs_compute_node_group.this[name].compute_node_group_id }
}

output "cpus" {
  description = "CPUs, as Slurm counts them, of a node, by partition."
  value       = { for name in local.partitions : name => local.groups[name].cpus }
}

output "log_group" {
  description = "CloudWatch log group of the scheduler."
  value       = aws_cloudwatch_log_group.pcs.name
}

output "gpus" {
  description = "GPUs of a node, by partition."
  value       = { for name in local.partitions : name => local.groups[name].gpus }
}
