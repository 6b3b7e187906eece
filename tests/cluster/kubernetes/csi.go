package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// driverName is what storage classes and snapshot classes name; it is also the node label that says where a volume is.
const (
	driverName = "btrfs.csi.test"
	nodeLabel  = driverName + "/node"
)

// serveStorage -data DIRECTORY -socket SOCKET [-node NAME -registry DIRECTORY] is a CSI driver. Volumes and snapshots
// are btrfs subvolumes, so that a snapshot is atomic and costs nothing. A volume lives on one node, as a local disk
// does, or on all of them. With a node's name it serves that node and makes itself known to its kubelet; without, it
// makes volumes and snapshots for the whole cluster.
func serveStorage(arguments []string) error {
	flags := flag.NewFlagSet("csi", flag.ExitOnError)
	data := flags.String("data", "", "folder on a btrfs: volumes and snapshots")
	socket := flags.String("socket", "", "where to listen")
	node := flags.String("node", "", "the node that this serves")
	registry := flags.String("registry", "", "the kubelet's folder of sockets that make drivers known")
	_ = flags.Parse(arguments)
	if *data == "" || *socket == "" || (*node == "") != (*registry == "") {
		return errors.New("usage: csi -data DIRECTORY -socket SOCKET [-node NAME -registry DIRECTORY]")
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(logged))
	csi.RegisterIdentityServer(server, identityService{})
	if *node == "" {
		csi.RegisterControllerServer(server, &controllerService{disk: disk{*data}})
	} else {
		csi.RegisterNodeServer(server, &nodeService{disk: disk{*data}, node: *node})
	}
	listener, err := listenOn(*socket)
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	go func() { failed <- server.Serve(listener) }()
	if *registry != "" {
		known := grpc.NewServer()
		registration.RegisterRegistrationServer(known, registrationService{socket: *socket})
		listener, err := listenOn(filepath.Join(*registry, driverName+"-reg.sock"))
		if err != nil {
			return err
		}
		go func() { failed <- known.Serve(listener) }()
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case err := <-failed:
		return err
	case <-stop:
		return nil
	}
}

func listenOn(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		return nil, err
	}
	_ = os.Remove(socket) // left by one that was killed
	return net.Listen("unix", socket)
}

func logged(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	answer, err := handler(ctx, request)
	if !strings.HasSuffix(info.FullMethod, "/Probe") {
		fmt.Fprintf(os.Stderr, "%s %v -> %v\n", info.FullMethod, request, err)
	}
	return answer, err
}

// identityService says what the driver is called and can do.
type identityService struct {
	csi.UnimplementedIdentityServer
}

func (identityService) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: driverName, VendorVersion: "1"}, nil
}

func (identityService) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	answer := &csi.GetPluginCapabilitiesResponse{}
	for _, kind := range []csi.PluginCapability_Service_Type{
		csi.PluginCapability_Service_CONTROLLER_SERVICE,
		csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS,
	} {
		answer.Capabilities = append(answer.Capabilities, &csi.PluginCapability{
			Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: kind}}})
	}
	return answer, nil
}

func (identityService) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// registrationService tells the kubelet where the driver listens, as node-driver-registrar does for others.
type registrationService struct {
	registration.UnimplementedRegistrationServer
	socket string
}

func (s registrationService) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: driverName, Endpoint: s.socket,
		SupportedVersions: []string{"1.0.0"}}, nil
}

func (registrationService) NotifyRegistrationStatus(_ context.Context, told *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	fmt.Fprintln(os.Stderr, "registered:", told.PluginRegistered, told.Error)
	return &registration.RegistrationStatusResponse{}, nil
}
