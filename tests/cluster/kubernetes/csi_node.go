package main

import (
	"context"
	"os"
	"strings"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// nodeService puts volumes where the kubelet of its node wants them.
type nodeService struct {
	csi.UnimplementedNodeServer
	disk disk
	node string
}

func (s *nodeService) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: s.node,
		AccessibleTopology: &csi.Topology{Segments: map[string]string{nodeLabel: s.node}}}, nil
}

func (s *nodeService) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

// NodePublishVolume may be called again for a volume that is in its place already.
func (s *nodeService) NodePublishVolume(_ context.Context, request *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	id, goal := request.GetVolumeId(), request.GetTargetPath()
	if place := placeOf(id); place != everywhere && place != s.node {
		return nil, status.Errorf(codes.FailedPrecondition, "%s is on %s, this is %s", id, place, s.node)
	}
	if err := os.MkdirAll(goal, 0o750); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	var there, wanted syscall.Stat_t
	if err := syscall.Stat(s.disk.volume(id), &wanted); err != nil {
		return nil, status.Error(codes.NotFound, err.Error())
	}
	// Every subvolume's first inode has the same number; the device tells them apart.
	if syscall.Stat(goal, &there) == nil && there.Ino == wanted.Ino && there.Dev == wanted.Dev {
		return &csi.NodePublishVolumeResponse{}, nil
	}
	if err := syscall.Mount(s.disk.volume(id), goal, "", syscall.MS_BIND, ""); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if request.GetReadonly() {
		if err := syscall.Mount("", goal, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// NodeUnpublishVolume may be called again for a volume that is gone already.
func (s *nodeService) NodeUnpublishVolume(_ context.Context, request *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	goal := request.GetTargetPath()
	if err := syscall.Unmount(goal, 0); err != nil && err != syscall.EINVAL && err != syscall.ENOENT {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if err := os.Remove(goal); err != nil && !os.IsNotExist(err) {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// placeOf gives the node that a volume is on, from its id PLACE/NAME.
func placeOf(id string) string {
	place, _, _ := strings.Cut(id, "/")
	return place
}
