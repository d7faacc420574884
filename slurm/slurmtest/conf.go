package slurmtest

import (
	"fmt"
	"os"
	"strings"
)

const conf = `ClusterName=test
SlurmctldHost=%[1]s(127.0.0.1)
SlurmctldPort=%[3]d
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=%[2]s/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation=%[2]s/state
SlurmdSpoolDir=%[2]s/spool-%%n
SlurmctldPidFile=%[2]s/slurmctld.pid
SlurmdPidFile=%[2]s/slurmd-%%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,batch_sched_delay=0,bf_interval=2,sched_min_interval=10000,requeue_delay=0
SlurmdParameters=config_overrides
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc=%[2]s/completed
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=20
SlurmctldTimeout=20
InactiveLimit=0
KillWait=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n[1-2] NodeHostname=%[1]s NodeAddr=127.0.0.1 Port=[%[4]d-%[5]d] CPUs=32 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=work Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=n[1-2] MaxTime=INFINITE State=UP PriorityTier=10
%[6]s
`

// writeConf writes slurm.conf with what it refers to.
func (c *Cluster) writeConf(lines []string) {
	c.t.Helper()
	host, err := os.Hostname()
	if err != nil {
		c.t.Fatal(err)
	}
	port := freePorts(c.t)
	for _, dir := range []string{"state", "spool-n1", "spool-n2"} {
		if err := os.Mkdir(c.path(dir), 0o755); err != nil {
			c.t.Fatal(err)
		}
	}
	c.write("gpu0", "")
	c.write("gpu1", "")
	c.write("gres.conf", fmt.Sprintf("NodeName=n[1-2] Name=gpu File=%s\n", c.path("gpu[0-1]")))
	c.write("slurm.conf", fmt.Sprintf(conf, host, c.Dir, port, port+1, port+2, strings.Join(lines, "\n")))
}
