package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// forward NAMESPACE LISTEN NAMESPACE DIAL carries TCP connections from one network namespace to another. A namespace is
// a file such as /proc/PID/ns/net, or `-` for this process's own.
func forward(arguments []string) error {
	if len(arguments) != 4 {
		return errors.New("usage: forward NAMESPACE LISTEN NAMESPACE DIAL")
	}
	listen, dial := arguments[1], arguments[3]
	var listener net.Listener
	err := inside(arguments[0], func() (err error) {
		listener, err = net.Listen("tcp4", listen)
		return err
	})
	if err != nil {
		return err
	}
	namespace, err := open(arguments[2])
	if err != nil {
		return err
	}
	for {
		near, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer near.Close()
			var far net.Conn
			err := enter(namespace, func() (err error) {
				far, err = net.DialTimeout("tcp4", dial, 10*time.Second)
				return err
			})
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return
			}
			defer far.Close()
			go carry(far, near)
			carry(near, far)
		}()
	}
}

// carry copies until the end, and passes the end on: the other direction may have more to say.
func carry(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.(*net.TCPConn).CloseWrite()
}

// open gives the namespace's file, or nothing for our own.
func open(namespace string) (*os.File, error) {
	if namespace == "-" {
		return nil, nil
	}
	return os.Open(namespace)
}

func inside(namespace string, action func() error) error {
	file, err := open(namespace)
	if err != nil {
		return err
	}
	return enter(file, action)
}

// enter runs the action on a thread in the namespace. The thread never comes back: it ends with its goroutine.
func enter(namespace *os.File, action func() error) error {
	if namespace == nil {
		return action()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- action()
	}()
	return <-done
}
