"""How far a render is from its photo: losses, PSNR, SSIM, LPIPS, and the protocol that is stored with each number."""
