// Volume-provisioner makes directories of this machine into ReadWriteMany volumes.
//
// The provisioner inside kube-controller-manager makes them root's alone (mode 0750), and a hostPath volume never gets a
// pod's fsGroup, so no restricted pod could write there. This one makes them writable for every user, under one directory
// of ours, and removes them after their claim. For the local development cluster only: sizes are not enforced.
//
// Level-triggered: every claim and volume is looked at again on each resync, so a failed step is simply tried again.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

const (
	name = "localcluster.aifactory.dev/directory"
	// Set by kube-controller-manager on a claim that waits for us, and by us on the volumes that are ours to remove.
	claimAnnotation  = "volume.kubernetes.io/storage-provisioner"
	volumeAnnotation = "pv.kubernetes.io/provisioned-by"
	resync           = 10 * time.Second
)

type provisioner struct {
	client kubernetes.Interface
	root   string
}

func (p provisioner) directory(volume string) string { return filepath.Join(p.root, volume) }

// provision makes the volume of a claim that has none. The name is the claim's UID, so doing it twice makes one volume.
func (p provisioner) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	if claim.Annotations[claimAnnotation] != name || claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil {
		return nil
	}
	volume := fmt.Sprintf("pvc-%s", claim.UID)
	path := p.directory(volume)
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	// MkdirAll is subject to the umask.
	if err := os.Chmod(path, 0o777); err != nil {
		return err
	}
	directory := corev1.HostPathDirectory
	_, err := p.client.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: volume, Annotations: map[string]string{volumeAnnotation: name}},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName:              *claim.Spec.StorageClassName,
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			AccessModes:                   claim.Spec.AccessModes,
			Capacity:                      claim.Spec.Resources.Requests,
			VolumeMode:                    claim.Spec.VolumeMode,
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &directory},
			},
		},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// remove deletes a volume whose claim is gone, and its directory; never a directory it did not make.
func (p provisioner) remove(ctx context.Context, volume *corev1.PersistentVolume) error {
	path := p.directory(volume.Name)
	ours := volume.Annotations[volumeAnnotation] == name && volume.Spec.HostPath != nil && volume.Spec.HostPath.Path == path
	wanted := volume.Status.Phase == corev1.VolumeReleased &&
		volume.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete
	if !ours || !wanted {
		return nil
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	precondition := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(volume.UID))}
	if err := p.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, precondition); !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}

// handle reports an error and leaves it to the next resync.
func handle(look func(object any) error) cache.ResourceEventHandlerFuncs {
	report := func(object any) {
		if err := look(object); err != nil {
			klog.Errorf("will be tried again: %v", err)
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: report, UpdateFunc: func(_, object any) { report(object) }}
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "how to reach the API server")
	root := flag.String("root", "", "directory under which volumes are made")
	flag.Parse()

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		klog.Fatalf("reading the kubeconfig: %v", err)
	}
	ctx := context.Background()
	p := provisioner{client: kubernetes.NewForConfigOrDie(config), root: *root}
	factory := informers.NewSharedInformerFactory(p.client, resync)
	core := factory.Core().V1()
	_, claimsErr := core.PersistentVolumeClaims().Informer().AddEventHandler(handle(func(object any) error {
		return p.provision(ctx, object.(*corev1.PersistentVolumeClaim))
	}))
	_, volumesErr := core.PersistentVolumes().Informer().AddEventHandler(handle(func(object any) error {
		return p.remove(ctx, object.(*corev1.PersistentVolume))
	}))
	if claimsErr != nil || volumesErr != nil {
		klog.Fatalf("watching claims and volumes: %v %v", claimsErr, volumesErr)
	}
	factory.Start(ctx.Done())
	klog.Infof("making volumes under %s", *root)
	<-ctx.Done()
}
