package main

import (
	"context"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// controllerService makes and deletes volumes and snapshots. Parameters of a StorageClass: `shared: "true"` for volumes
// that every node reaches. Parameters of a VolumeSnapshotClass: `ready: never` for snapshots that never get ready and
// `fault: MESSAGE` for those that fail.
type controllerService struct {
	csi.UnimplementedControllerServer
	disk disk
}

func (s *controllerService) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	answer := &csi.ControllerGetCapabilitiesResponse{}
	for _, kind := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
	} {
		answer.Capabilities = append(answer.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: kind}}})
	}
	return answer, nil
}

// CreateVolume may be called again for a volume that is there already.
func (s *controllerService) CreateVolume(_ context.Context, request *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	shared := request.GetParameters()["shared"] == "true"
	if err := suits(request.GetVolumeCapabilities(), shared); err != nil {
		return nil, err
	}
	capacity := request.GetCapacityRange().GetRequiredBytes()
	id := s.disk.find(request.GetName())
	if id == "" {
		place := everywhere
		if !shared {
			if place = chosen(request.GetAccessibilityRequirements()); place == "" {
				return nil, status.Error(codes.InvalidArgument, "no node is named for the volume")
			}
		}
		from, err := s.origin(request.GetVolumeContentSource(), place)
		if err != nil {
			return nil, err
		}
		id = place + "/" + request.GetName()
		if err := s.disk.create(id, from, capacity); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: id, CapacityBytes: capacity,
		ContentSource: request.GetVolumeContentSource(), AccessibleTopology: topology(id)}}, nil
}

// origin gives the subvolume that a volume starts from, if any. A snapshot can be restored on every node; a clone stays
// where its source is.
func (s *controllerService) origin(source *csi.VolumeContentSource, place string) (string, error) {
	var path string
	switch {
	case source.GetSnapshot() != nil:
		path = s.disk.snapshot(source.GetSnapshot().GetSnapshotId())
	case source.GetVolume() != nil:
		id := source.GetVolume().GetVolumeId()
		if path = s.disk.volume(id); place != placeOf(id) {
			return "", status.Errorf(codes.ResourceExhausted, "%s cannot be cloned to %s", id, place)
		}
	default:
		return "", nil
	}
	if _, err := os.Stat(path); err != nil {
		return "", status.Error(codes.NotFound, err.Error())
	}
	return path, nil
}

func (s *controllerService) DeleteVolume(_ context.Context, request *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if err := remove(s.disk.volume(request.GetVolumeId())); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &csi.DeleteVolumeResponse{}, nil
}

func (s *controllerService) ValidateVolumeCapabilities(_ context.Context, request *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if err := suits(request.GetVolumeCapabilities(), placeOf(request.GetVolumeId()) == everywhere); err != nil {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeCapabilities: request.GetVolumeCapabilities()}}, nil
}

// CreateSnapshot may be called again for a snapshot that is there already.
func (s *controllerService) CreateSnapshot(_ context.Context, request *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	if fault := request.GetParameters()["fault"]; fault != "" {
		return nil, status.Error(codes.Internal, fault)
	}
	path := s.disk.snapshot(request.GetName())
	if _, err := os.Stat(path); os.IsNotExist(err) {
		if _, err := os.Stat(s.disk.volume(request.GetSourceVolumeId())); err != nil {
			return nil, status.Error(codes.NotFound, err.Error())
		}
		if err := s.disk.freeze(request.GetSourceVolumeId(), request.GetName()); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
	}
	made, err := madeAt(path)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &csi.CreateSnapshotResponse{Snapshot: &csi.Snapshot{SnapshotId: request.GetName(),
		SourceVolumeId: request.GetSourceVolumeId(), SizeBytes: s.disk.capacity(path),
		CreationTime: timestamppb.New(made), ReadyToUse: request.GetParameters()["ready"] != "never"}}, nil
}

func (s *controllerService) DeleteSnapshot(_ context.Context, request *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	if err := remove(s.disk.snapshot(request.GetSnapshotId())); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &csi.DeleteSnapshotResponse{}, nil
}

// suits refuses what the driver cannot do: block devices, and one volume on many nodes unless it is shared.
func suits(capabilities []*csi.VolumeCapability, shared bool) error {
	for _, capability := range capabilities {
		if capability.GetBlock() != nil {
			return status.Error(codes.InvalidArgument, "block volumes are not offered")
		}
		switch capability.GetAccessMode().GetMode() {
		case csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY,
			csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER,
			csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:
			if !shared {
				return status.Error(codes.InvalidArgument, "only shared volumes are offered to several nodes")
			}
		}
	}
	return nil
}

// chosen is the node that the scheduler or the provisioner prefers for a volume.
func chosen(wanted *csi.TopologyRequirement) string {
	for _, topology := range append(wanted.GetPreferred(), wanted.GetRequisite()...) {
		if node := topology.GetSegments()[nodeLabel]; node != "" {
			return node
		}
	}
	return ""
}

// topology says which nodes reach the volume; nothing means all of them.
func topology(id string) []*csi.Topology {
	if placeOf(id) == everywhere {
		return nil
	}
	return []*csi.Topology{{Segments: map[string]string{nodeLabel: placeOf(id)}}}
}
