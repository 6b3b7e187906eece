// kubernetes is one static program that holds a whole cluster: the first argument says which part of it to be.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	kubectl "k8s.io/kubectl/pkg/cmd/util"

	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	_ "time/tzdata" // CronJobs have time zones
)

// ours are the parts that Kubernetes does not bring.
var ours = map[string]func(arguments []string) error{
	"certificates": certificates,
	"csi":          serveStorage,
	"etcd":         etcd,
	"forward":      forward,
	"image":        image,
}

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: kubernetes PART [ARGUMENTS]"))
	}
	os.Args = os.Args[1:]
	if part, ok := ours[os.Args[0]]; ok {
		if err := part(os.Args[1:]); err != nil {
			fail(fmt.Errorf("%s: %w", os.Args[0], err))
		}
		return
	}
	var command *cobra.Command
	switch os.Args[0] {
	case "kube-apiserver":
		command = apiserver.NewAPIServerCommand()
	case "kube-controller-manager":
		command = controllers.NewControllerManagerCommand()
	case "kube-scheduler":
		command = scheduler.NewSchedulerCommand()
	case "kube-proxy":
		command = proxy.NewProxyCommand()
	case "kubelet":
		// Not a context that ends with a signal: the kubelet makes one itself, and two panic.
		command = kubelet.NewKubeletCommand(context.Background())
	case "kubectl":
		if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
			kubectl.CheckErr(err)
		}
		return
	default:
		fail(fmt.Errorf("there is no part %q", os.Args[0]))
	}
	os.Exit(cli.Run(command))
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "error:", err)
	os.Exit(1)
}
