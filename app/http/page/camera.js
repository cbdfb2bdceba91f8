// A photo from the camera. Browsers offer it to pages from https and from this machine itself only.

const element = (id) => document.getElementById(id);

/** Offers the way to a photo that this browser has; `onPhoto(file)` gets it. `stay`: one photo after the other. */
export function offerCamera(onPhoto, onError, { stay = false } = {}) {
  if (!navigator.mediaDevices) {
    // Phones have a camera behind a file input on every page.
    element("shoot").hidden = !matchMedia("(pointer: coarse)").matches;
    element("shoot").addEventListener("click", () => element("shot").click());
    return;
  }
  const dialog = element("viewfinder");
  const video = element("video");
  element("camera").hidden = false;
  element("camera").addEventListener("click", async () => {
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: "environment", width: { ideal: 1280 } },
      });
      element("snap").disabled = true;
      dialog.showModal();
    } catch (error) {
      onError(error.name === "NotAllowedError" ? "The browser was told not to use the camera." : "There is no camera that can be used.");
    }
  });
  video.addEventListener("loadeddata", () => {
    element("snap").disabled = false;
  });
  element("snap").addEventListener("click", () => {
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    const name = `camera ${new Date().toLocaleTimeString()}.jpg`;
    canvas.toBlob((blob) => onPhoto(new File([blob], name, { type: "image/jpeg" })), "image/jpeg", 0.95);
    if (!stay) dialog.close();
  });
  element("close-camera").addEventListener("click", () => dialog.close());
  // However it was closed, the Escape key included: the camera's light goes out.
  dialog.addEventListener("close", () => {
    for (const track of video.srcObject.getTracks()) track.stop();
    video.srcObject = null;
  });
}
