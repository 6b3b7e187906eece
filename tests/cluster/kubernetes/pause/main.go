// pause holds namespaces: those of a pod, of a node and of the whole cluster. It does nothing until it is ended.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// A pod that shares its process namespace leaves its orphans to this process: the kernel reaps them.
	signal.Ignore(syscall.SIGCHLD)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}
